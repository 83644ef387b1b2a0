"""What must stay light: importing the package, asking for help."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from latentdiff.cli.main import COMMANDS

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "datasets", "numpy", "PIL", "tyro")


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys, json; print('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_latentdiff_loads_nothing_heavy() -> None:
    assert not modules_after("import latentdiff") & set(HEAVY)


def test_help_loads_nothing_heavy() -> None:
    code = "from latentdiff.cli.main import run; assert run(['--help']) == 0"
    assert not modules_after(code) & set(HEAVY)


def test_an_unknown_command_is_one_line_that_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from latentdiff.cli.main import run

    assert run(["genrate"]) == 2
    error = capsys.readouterr().err
    assert "generate" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_answers_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(COMMANDS[command][0])
    try:
        code = module.main(["--help"])
    except SystemExit as stop:
        code = stop.code or 0
    assert code == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_pipelines_enters_by_one_name_only() -> None:
    loaded = modules_after("import latentdiff.pipelines, latentdiff.train_scripts")
    assert "latentdiff.pipelines" in loaded
    assert not loaded & {"pipelines", "train_scripts"}


def test_both_import_orders_work() -> None:
    rooms = sorted(
        p.name
        for p in (Path(__file__).parents[2] / "latentdiff").iterdir()
        if (p / "__init__.py").exists()
    )
    names = [f"latentdiff.{room}" for room in (*rooms, "pipelines", "train_scripts")]
    for order in (names, names[::-1]):
        modules_after("\n".join(f"import {name}" for name in order))
