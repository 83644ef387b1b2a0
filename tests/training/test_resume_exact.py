"""A run that was stopped and resumed is the run that was not: the same bits, the same samples."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from regressor import RegressorTask
from run_task import run_task
from tiny_runs import BATCH, SCENES, TRAIN, bits, build_parts, noted, text_to_image_task

from latentdiff.checkpoints import store as checkpoints
from latentdiff.data.rendered.scene_pictures import row_of
from latentdiff.training.run import loop
from latentdiff.training.train_config import TrainConfig

STEPS = 20
Run = namedtuple("Run", "folder seen results")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Callable[[str], Any]:
    """A task of a kind, as another process would build it."""
    parts: list[Path] = []

    def build(kind: str) -> Any:
        if kind == "regressor":
            return RegressorTask()
        if not parts:
            parts.append(build_parts(tmp_path_factory.mktemp("parts")))
        task = text_to_image_task(parts[0])
        task.export = lambda module, folder: None  # it takes longer than all the rest
        return task

    return build


def sitting(
    task: Any, config: TrainConfig, *, stop: int | None = None
) -> tuple[list[list[int]], loop.RunResult]:
    """Train until the end, or until SIGTERM in the last micro-batch but one before step `stop`."""
    seen: list[list[int]] = []
    last = None if stop is None else stop * config.gradient_accumulation
    middle = None if last is None else last - min(1, config.gradient_accumulation - 1)

    def note(positions: list[int]) -> None:
        seen.append(positions)
        if len(seen) + already == middle:
            os.kill(os.getpid(), signal.SIGTERM)

    already = 0
    if config.resume:
        found = checkpoints.newest_whole(config.run_dir / "checkpoints")
        already = checkpoints.read_state(found.path).step * config.gradient_accumulation
    return seen, run_task(noted(task, note), config)


def run(fresh, kind: str, folder: Path, *, stops=(), workers=(0,), accumulation=1) -> Run:
    """A run in several sittings, each with so many data workers."""
    seen, results = [], []
    for number, stop in enumerate((*stops, None)):
        config = dataclasses.replace(
            TRAIN,
            run_dir=folder,
            resume=number > 0,
            gradient_accumulation=accumulation,
            num_workers=workers[number % len(workers)],
        )
        noted_now, result = sitting(fresh(kind), config, stop=stop)
        seen += noted_now
        results.append(result)
    return Run(folder, seen, results)


@pytest.fixture(scope="module")
def whole(fresh, tmp_path_factory) -> Callable[[str, int], Run]:
    """The same run without a stop; made once for each kind and accumulation."""
    made: dict[tuple[str, int], Run] = {}

    def get(kind: str, accumulation: int) -> Run:
        if (kind, accumulation) not in made:
            folder = tmp_path_factory.mktemp("whole")
            made[kind, accumulation] = run(fresh, kind, folder, accumulation=accumulation)
        return made[kind, accumulation]

    return get


Case = namedtuple("Case", "stops workers accumulation", defaults=((0,), 1))
CASES = {
    "inside an epoch": Case([10]),
    "at the end of an epoch": Case([12]),
    "in the middle of accumulation": Case([10], accumulation=2),
    "three times": Case([4, 10, 18]),
    "with two workers": Case([10], workers=(2,)),
    "with four workers": Case([10], workers=(4,)),
    "with more workers each time": Case([7, 14], workers=(0, 2, 4)),
    "with fewer workers each time": Case([7, 14], workers=(4, 2, 0)),
    "many times, in all these ways": Case([1, 6, 10, 18], workers=(2, 0, 4, 1), accumulation=2),
}
BOTH = [
    pytest.param(
        kind,
        case,
        id=f"{kind}, {name}",
        marks=pytest.mark.slow if kind == "text-to-image" and "many" not in name else (),
    )
    for kind in ("regressor", "text-to-image")
    for name, case in CASES.items()
]


@pytest.mark.parametrize(("kind", "case"), BOTH)
def test_a_stopped_and_resumed_run_is_the_run_that_was_not(fresh, whole, tmp_path, kind, case):
    expected = whole(kind, case.accumulation)
    found = run(fresh, kind, tmp_path, **case._asdict())
    assert [r.step for r in found.results] == [*case.stops, STEPS]
    assert [r.stopped for r in found.results[:-1]] == ["interrupted"] * len(case.stops)
    assert found.seen == expected.seen
    assert bits(tmp_path, STEPS) == bits(expected.folder, STEPS)
    states = [
        dataclasses.replace(checkpoints.read_state(f / "checkpoints/step-00000020"), minutes=0)
        for f in (tmp_path, expected.folder)
    ]
    assert dataclasses.replace(states[0], metrics={}) == dataclasses.replace(states[1], metrics={})


def test_every_scene_is_seen_once_an_epoch_across_stops(fresh, tmp_path):
    seen = run(fresh, "text-to-image", tmp_path, stops=[5, 6]).seen
    positions = [position for batch in seen for position in batch]
    assert positions == list(range(STEPS * BATCH))
    rows = [row_of(position, SCENES, TRAIN.seed) for position in positions]
    for epoch in range(STEPS * BATCH // SCENES):
        assert sorted(rows[epoch * SCENES : (epoch + 1) * SCENES]) == list(range(SCENES))


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from regressor import RegressorTask
from tiny_runs import TRAIN, noted
from run_task import run_task

seen = []
def note(positions):
    seen.append(positions)
    if len(seen) == 3 * 9 + 2:
        os.kill(os.getpid(), signal.SIGKILL)

run_task(noted(RegressorTask(), note), replace(
    TRAIN, run_dir=Path(sys.argv[1]), batch_size=6, gradient_accumulation=3,
    checkpoint_minutes=1e-9))
"""


def test_killed_in_the_middle_of_accumulation_it_goes_on_from_the_last_update(tmp_path):
    config = dataclasses.replace(TRAIN, batch_size=6, gradient_accumulation=3)
    expected, _ = sitting(RegressorTask(), dataclasses.replace(config, run_dir=tmp_path / "a"))
    places = os.pathsep.join(p for p in sys.path if p)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "b")],
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    resumed = dataclasses.replace(config, run_dir=tmp_path / "b", resume=True)
    seen, result = sitting(RegressorTask(), resumed)
    assert result.step == STEPS
    assert seen == expected[3 * 9 :]  # step 9's micro-batches are seen again, all three
    assert bits(tmp_path / "a", STEPS) == bits(tmp_path / "b", STEPS)


class Endless(RegressorTask):
    """Asks itself to stop while it validates or draws at step `at`, and never ends that itself."""

    def __init__(self, where: str, at: int) -> None:
        super().__init__()
        self.where, self.at = where, at

    def _maybe(self, where: str, step: int) -> None:
        if (where, step) != (self.where, self.at):
            return
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        while time.monotonic() - began < 60:
            try:
                time.sleep(0.01)
            except Exception:
                continue  # a library that goes on whatever happens
        raise AssertionError(f"{where} was not cut short")

    def validate(self, module, step):
        self._maybe("validate", step)
        return super().validate(module, step)

    def sheet(self, module, step):
        self._maybe("sheet", step)
        return super().sheet(module, step)


@pytest.mark.parametrize("where", ["validate", "sheet"])
@pytest.mark.parametrize("at", [0, 10, 20])
def test_a_signal_cuts_validating_and_drawing_short_and_leaves_a_checkpoint(tmp_path, where, at):
    config = dataclasses.replace(
        TRAIN, run_dir=tmp_path / "b", validate_every=10, sheet_every=10, validate_at_start=True
    )
    result = run_task(Endless(where, at), config)
    assert (result.stopped, result.step, result.signal) == ("interrupted", at, signal.SIGTERM)
    assert result.checkpoint.name == checkpoints.folder_name(at)
    again = dataclasses.replace(config, resume=True)
    assert run_task(RegressorTask(), again).stopped == "finished"
    run_task(RegressorTask(), dataclasses.replace(config, run_dir=tmp_path / "a"))
    assert bits(tmp_path / "a", STEPS) == bits(tmp_path / "b", STEPS)
    lines = [json.loads(x) for x in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    validated = [x["step"] for x in lines if x["event"] == "validate"]
    lost = 10 if (where, at) == ("validate", 10) else None  # an update follows it at once
    assert sorted(set(validated)) == [step for step in (0, 10, 20) if step != lost]


def test_a_signal_before_the_first_update_ends_the_start_at_once(tmp_path, monkeypatch):
    class Slow(RegressorTask):
        def prepare(self, device):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    config = dataclasses.replace(TRAIN, run_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_task(Slow(), config)
    assert run_task(RegressorTask(), config).step == STEPS  # nothing is in the way of another


def test_what_a_killed_trainer_was_writing_goes_at_the_next_start(tmp_path):
    config = dataclasses.replace(TRAIN, run_dir=tmp_path, steps=4)
    run_task(RegressorTask(), dataclasses.replace(config, stop_at=2))
    for name in (".tmp-export-1-a", "checkpoints/.tmp-step-3-1-a", "validation/.tmp-x-1-a.json"):
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        place.write_text("half") if place.suffix else place.mkdir()
    assert run_task(RegressorTask(), dataclasses.replace(config, resume=True)).step == 4
    assert list(tmp_path.rglob(".tmp-*")) == []
