"""docs/experiments.md has a place for each experiment, and each is a command that exists."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from latentdiff import config
from latentdiff.cli.evaluate import MEASUREMENTS
from latentdiff.cli.main import COMMANDS

FOLDER = Path(__file__).parents[2] / "docs" / "experiments"
sys.path.insert(0, str(FOLDER))

import run_experiments  # noqa: E402


def test_the_page_has_a_place_for_each_experiment() -> None:
    assert sorted(run_experiments.names_on_page()) == sorted(run_experiments.EXPERIMENTS)


@pytest.mark.parametrize("name", run_experiments.EXPERIMENTS)
def test_an_experiment_is_a_command_with_options_that_exist(name: str) -> None:
    group, measurement, *rest = run_experiments.words(name)
    if group != "evaluate":
        assert group in COMMANDS
        return
    module = importlib.import_module(MEASUREMENTS[measurement][0])
    options = config.parse(module.Options, rest, prog="test", description="")
    assert options.results.output == run_experiments.OUTPUTS / name


def test_a_measurement_is_written_into_its_place_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "experiments.md"
    page.write_text((FOLDER.parent / "experiments.md").read_text("utf-8"), "utf-8")
    (tmp_path / "snowglobe.md").write_text("# snowglobe, version 7\n", "utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(run_experiments, "PAGE", page)
    monkeypatch.setattr(run_experiments, "HERE", tmp_path / "here")
    monkeypatch.setattr(run_experiments, "OUTPUTS", tmp_path / "outputs")
    before = page.read_text("utf-8")
    run_experiments.write_page()
    assert page.read_text("utf-8") == before  # nothing was measured
    folder = tmp_path / "outputs" / "bound"
    folder.mkdir(parents=True)
    facts = {
        "date": "2026-11-25T20:00:00+00:00",
        "environment": {"processor": "A processor"},
        "models": [{"name": "snowglobe", "hashes": {"unet": "0123456789"}}],
    }
    (folder / "numbers.json").write_text(json.dumps(facts), "utf-8")
    (folder / "tables.md").write_text("The lead\n\nThe bound:\n\n| a |\n\nA note.\n", "utf-8")
    Image.new("RGB", (2000, 100)).save(folder / "terms.png")
    for _ in range(2):  # writing it again changes nothing
        run_experiments.write_page()
        written = page.read_text("utf-8")
        inside = written.split("<!-- begin bound -->")[1].split("<!-- end bound -->")[0]
        assert "A processor, 2026-11-25; snowglobe, version 7 (unet `01234567`)" in inside
        assert "| a |" in inside and "(experiments/bound-terms.png)" in inside
        outside = written.replace(inside, "")
        assert "A processor" not in outside.split("<!-- begin bound -->")[1]
    assert Image.open(tmp_path / "here" / "bound-terms.png").width == run_experiments.WIDEST
    assert shlex.split(run_experiments.EXPERIMENTS["bound"].command)[1] == "likelihood"
