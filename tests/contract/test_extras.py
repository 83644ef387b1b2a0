"""A plain install: every absent extra is one line with the command that installs it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tiny
from own_data import make_images
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # `import name` is an ImportError
from latentdiff.cli.main import run
for words in json.loads(sys.argv[2]):
    print("code", run(words), file=sys.stderr, flush=True)
"""


def modules_of_extras() -> list[str]:
    """What the extras would bring, by the names that are imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k != "dev"}
    named = [Requirement(text).name for several in extras.values() for text in several]
    return [*(name for name in named if name != "latentdiff"), "pyarrow", "starlette"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each of several commands writes on standard error, in a process without the extras."""
    root = tmp_path_factory.mktemp("plain")
    model = tiny.save(tiny.tiny(), root / "model")
    pictures = make_images(root / "photos", sizes=((32, 32),) * 2)
    (root / "a.parquet").write_bytes(b"PAR1" * 8)
    subprocess.run(["tar", "cf", "a.tar", "-C", "photos", "00.png"], cwd=root, check=True)
    train = ["train", "text-to-image", "--base", str(model), "--run-dir", str(root / "run")]
    train += ["--steps", "1", "--device", "cpu"]
    commands = {
        "parquet": ["data", "check", str(root / "a.parquet"), "--model", "none"],
        "stream": [*train, "--data", str(root / "a.tar"), "--stream"],
        "lora": [*train, "--method", "lora", "--data", str(pictures)],
        "web": ["web", "--model", str(model)],
        "draw": ["generate", "a cat", "--model", str(model), "--steps", "1", "-o", f"{root}/out/"],
    }
    arguments = (json.dumps(modules_of_extras()), json.dumps(list(commands.values())))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    parts = done.stderr.split("code ")
    codes = [int(part.split("\n", 1)[0]) for part in parts[1:]]
    assert codes == [2, 2, 2, 2, 0], done.stderr
    errors = [parts[0], *(part.split("\n", 1)[1] for part in parts[1:])]
    return dict(zip(commands, errors, strict=False))


@pytest.mark.parametrize(
    ("command", "needs", "extra"),
    [
        ("parquet", "pyarrow", "train"),
        ("stream", "datasets", "train"),
        ("lora", "peft", "lora"),
        ("web", "fastapi", "web"),
    ],
)
def test_an_absent_extra_is_one_line_with_what_installs_it(
    command: str, needs: str, extra: str, told: dict[str, str]
) -> None:
    lines = [line for line in told[command].splitlines() if line.startswith("latentdiff: error")]
    assert len(lines) == 1 and "Traceback" not in told[command]
    assert f"needs {needs}, which is not installed" in lines[0]
    assert lines[0].endswith(f"run: pip install 'latentdiff[{extra}]'")


def test_drawing_needs_none_of_them(told: dict[str, str]) -> None:
    assert "error" not in told["draw"]
