"""One class reads YAML and the command line; mistakes are named with the nearest right word."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from latentdiff import config
from latentdiff.errors import UserError


@dataclasses.dataclass(kw_only=True, frozen=True)
class Train:
    steps: int = 100
    learning_rate: float = 1e-3
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}; at least 1 was expected")


@dataclasses.dataclass(kw_only=True, frozen=True)
class Example:
    train: Train = Train()
    kind: Literal["plain", "fancy"] = "plain"
    compile: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    out: Path | None = None


def parse(*argv: str) -> Example:
    return config.parse(
        Example, argv, prog="example", presets={"long": Example(train=Train(steps=9000))}
    )


def test_a_saved_config_reads_back_equal(tmp_path: Path) -> None:
    original = Example(train=Train(steps=7, learning_rate=3e-4), out=Path("a/b"), kind="fancy")
    config.save_yaml(original, tmp_path / "c.yaml")
    assert config.load_yaml(Example, tmp_path / "c.yaml") == original


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("kind: fancy\ntrain:\n  learning_rate: 1e-4\n  max_minutes: 5\n")
    got = parse("--preset", "long", f"--config={file}", "--max-minutes", "3", "--compile")
    assert got == Example(
        train=Train(steps=9000, learning_rate=1e-4, max_minutes=3.0), kind="fancy", compile=True
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n  learning_rat: 1\n", "learning_rate"),
        ("train: 3\n", "a table of keys"),
        ("train:\n  steps: many\n", "int was expected"),
        ("train:\n  steps: true\n", "int was expected"),
        ("train:\n  steps: 0\n", "at least 1"),
        ("kind: fany\n", "fancy"),
        ("betas: [1]\n", "betas"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_file_is_a_user_error_that_helps(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        config.load_yaml(Example, tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--step", "3"], r"^unknown option --step; did you mean --steps\?$"),
        (["3"], "^unknown argument 3; see"),
        (["--steps", "x"], r"^--steps is 'x'; expected INT$"),
        (["--max-minutes", "x"], r"^--max-minutes is 'x'; expected FLOAT$"),
        (["--steps"], r"^--steps needs a value: INT$"),
        (["--betas", "1"], r"^--betas needs a value: FLOAT FLOAT$"),
        (
            ["--kind", "fany"],
            r"^--kind is 'fany'; expected one of plain, fancy$",
        ),
        (["--steps", "0"], "at least 1"),
        (["--preset", "lng"], "long"),
        (["--config"], "needs a value"),
        (["--config", "nowhere.yaml"], "no config file at nowhere.yaml"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_that_helps(argv: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    steps: int = 1
    name: str = "plain"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=lambda: Inner(name="of the outer"))


def test_a_nested_table_keeps_the_outer_configs_defaults() -> None:
    assert config.from_dict(Outer, {"inner": {"steps": 3}}).inner == Inner(
        steps=3, name="of the outer"
    )
