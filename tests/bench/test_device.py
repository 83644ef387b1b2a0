"""`bench device`: no check stops the others, and each says why it does not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentdiff.bench import device_checks
from latentdiff.bench.device_checks import UPDATES, Place
from latentdiff.bench.device_page import DeviceReport, check_all


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place whose commands may take some seconds."""
    return Place(device="cpu", folder=tmp_path, data=tmp_path, patience=20.0)


def log_of(run: Path, losses: list[float]) -> Path:
    """A run's log with these losses."""
    run.mkdir()
    lines = [{"event": "train", "step": k + 1, "loss": loss} for k, loss in enumerate(losses)]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return run


def test_a_check_that_fails_is_named_and_the_next_one_runs(place: Place) -> None:
    def broken(place: Place) -> str:
        raise RuntimeError("no kernel image\nis available")

    found = check_all(place, {"broken": broken, "whole": lambda place: "bit-equal"})
    assert [(f.name, f.holds, f.text) for f in found] == [
        ("broken", False, "no kernel image is available"),
        ("whole", True, "bit-equal"),
    ]


def test_a_command_that_fails_says_its_last_line(place: Place) -> None:
    with pytest.raises(RuntimeError, match=r"No module named no_such_module$"):
        place.run("no_such_module")


def test_a_command_that_does_not_end_is_given_up(place: Place) -> None:
    waiting = Place(device="cpu", folder=place.folder, data=place.data, patience=0.5)
    with pytest.raises(RuntimeError, match="no end after"):
        waiting.run("timeit", "-n", "1", "-r", "1", "import time; time.sleep(60)")


@pytest.mark.parametrize("losses", [[0.5] * (UPDATES - 1), [0.5] * (UPDATES - 1) + [float("nan")]])
def test_a_run_of_too_few_updates_or_without_a_loss_does_not_hold(
    place: Place, losses: list[float]
) -> None:
    with pytest.raises(RuntimeError, match="losses"):
        device_checks.finite(log_of(place.folder / "run", losses))


def test_a_whole_run_shows_its_first_and_last_loss(place: Place) -> None:
    run = log_of(place.folder / "run", [0.5, 0.4, 0.3, 0.25])
    assert device_checks.finite(run) == "losses 0.5000 … 0.2500"


def test_the_page_shows_every_finding(place: Place) -> None:
    found = check_all(place, {"whole": lambda place: "bit-equal"})
    report = DeviceReport(benchmark="device", races=[], findings=tuple(found))
    assert "bit-equal" in report.page() and "bit-equal" in report.text()
    assert report.to_json()["findings"][0]["holds"] is True
