"""Checkpoints that are written beside the training: what they hold, and what becomes of trouble."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from regressor import RegressorTask
from run_task import run_task
from tiny_runs import TRAIN, bits, build_parts, log, text_to_image_task

from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.errors import UserError
from latentdiff.training.run import checkpoint_writer, trainer
from latentdiff.training.run.checkpoint_writer import CheckpointWriter, Written

EVERY_STEP = dataclasses.replace(
    TRAIN, checkpoint_minutes=1e-9, keep_checkpoints=50, decay_fraction=0.0
)


class Beside(RegressorTask):
    """The tiny task, whose export may be written beside the training."""

    def exporter(self, module):
        state = module.state_dict()
        return lambda folder: torch.save(sorted(state), folder / "names.pt")

    def export(self, module, folder: Path) -> None:
        self.exporter(module)(folder)


def written(step: int) -> Written:
    return Written(step=step, path=Path(f"step-{step}"), minutes=0.0)


def test_what_was_written_is_told_once_and_only_when_it_stands():
    may_end, writer = threading.Event(), CheckpointWriter()
    assert writer.poll() is None and writer.wait() is None
    writer.begin(lambda: (may_end.wait(10), written(3))[1])
    assert writer.poll() is None
    may_end.set()
    assert writer.wait() == written(3)
    assert writer.poll() is None and writer.wait() is None


def test_an_error_of_the_writer_is_raised_where_it_is_asked_for():
    def fail() -> Written:
        raise UserError("the disk is full")

    writer = CheckpointWriter()
    writer.begin(fail)
    with pytest.raises(UserError, match="the disk is full"):
        while writer.poll() is None:
            pass
    assert writer.wait() is None


def test_leaving_waits_for_the_write_but_a_second_signal_does_not():
    ended, may_end = threading.Event(), threading.Event()
    with pytest.raises(UserError, match="loss"), CheckpointWriter() as writer:
        writer.begin(lambda: (ended.set(), written(1))[1])
        raise UserError("the loss is not finite")
    assert ended.is_set()
    with pytest.raises(KeyboardInterrupt), CheckpointWriter() as writer:
        writer.begin(lambda: (may_end.wait(60), written(1))[1])
        raise KeyboardInterrupt
    may_end.set()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Saves beside the training end only once it has gone on; (step, whether it was beside)."""
    seen: list[tuple[int, bool]] = []
    save, begin, poll = checkpoints.save, CheckpointWriter.begin, CheckpointWriter.poll
    asked = threading.Event()

    def slowly(root: Path, checkpoint: checkpoints.Checkpoint) -> Path:
        beside = threading.current_thread() is not threading.main_thread()
        seen.append((checkpoint.state.step, beside))
        if beside:
            assert asked.wait(20), "training did not go on"
        return save(root, checkpoint)

    def beginning(writer: CheckpointWriter, write: Callable[[], Written]) -> None:
        asked.clear()
        begin(writer, write)

    def noting(writer: CheckpointWriter) -> Written | None:
        found = poll(writer)
        asked.set()
        return found

    monkeypatch.setattr(checkpoints, "save", slowly)
    monkeypatch.setattr(CheckpointWriter, "begin", beginning)
    monkeypatch.setattr(CheckpointWriter, "poll", noting)
    return seen


def test_training_goes_on_and_the_checkpoint_is_that_of_its_step(tmp_path, slow):
    config = dataclasses.replace(EVERY_STEP, steps=6)
    result = run_task(Beside(), dataclasses.replace(config, run_dir=tmp_path / "beside"))
    assert slow == [(step, True) for step in range(6)] + [(6, False)]
    assert result.checkpoint is not None and result.step == 6
    run_task(RegressorTask(), dataclasses.replace(config, run_dir=tmp_path / "waiting"))
    for step in range(7):
        assert bits(tmp_path / "beside", step) == bits(tmp_path / "waiting", step), step
    told = [entry for entry in log(tmp_path / "beside") if entry["event"] == "checkpoint"]
    assert [entry["step"] for entry in told] == list(range(7))
    assert files.verify_manifest(tmp_path / "beside" / "export") == []


def test_a_run_of_a_model_ends_with_the_same_bits_however_often_it_saves(tmp_path):
    parts = build_parts(tmp_path)
    config = dataclasses.replace(EVERY_STEP, steps=5)
    often = dataclasses.replace(config, run_dir=tmp_path / "often")
    seldom = dataclasses.replace(config, run_dir=tmp_path / "seldom", checkpoint_minutes=0.0)
    for asked in (often, seldom):
        run_task(text_to_image_task(parts), asked)
    assert bits(tmp_path / "often", 5) == bits(tmp_path / "seldom", 5)
    exports = [tmp_path / name / "export" / "unet" for name in ("often", "seldom")]
    (a, b) = (next(folder.glob("*.safetensors")).read_bytes() for folder in exports)
    assert a == b


def test_where_memory_lacks_training_waits_and_says_so_once(tmp_path, slow, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint_writer.devices, "memory_available", lambda: 2**20)
    run_task(Beside(), dataclasses.replace(EVERY_STEP, steps=3, run_dir=tmp_path / "run"))
    assert slow == [(step, False) for step in range(4)]
    assert capsys.readouterr().out.count("no memory for a copy") == 1


@pytest.mark.parametrize("struck", [2, 5])
def test_a_save_that_fails_ends_the_run_and_leaves_the_one_before(tmp_path, monkeypatch, struck):
    save = checkpoints.save

    def failing(root: Path, checkpoint: checkpoints.Checkpoint) -> Path:
        if checkpoint.state.step == struck:
            raise UserError("the disk is full")
        return save(root, checkpoint)

    monkeypatch.setattr(checkpoints, "save", failing)
    config = dataclasses.replace(EVERY_STEP, steps=5, run_dir=tmp_path / "run")
    with pytest.raises(UserError, match="the disk is full"):
        run_task(Beside(), config)
    found = checkpoints.newest_whole(tmp_path / "run" / "checkpoints")
    assert found.path is not None and found.path.name == checkpoints.folder_name(struck - 1)
    monkeypatch.setattr(checkpoints, "save", save)
    assert run_task(Beside(), dataclasses.replace(config, resume=True)).step == 5


def test_a_stop_signal_waits_for_the_write_and_saves_once_more(tmp_path, slow, monkeypatch):
    class Stopping(Beside):
        def batch(self, positions):
            if positions[0] == 3 * TRAIN.batch_size:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(positions)

    config = dataclasses.replace(EVERY_STEP, run_dir=tmp_path / "run")
    result = run_task(Stopping(), config)
    assert result.stopped == "interrupted" and result.checkpoint is not None
    names = [path.name for _, path in checkpoints.stored(tmp_path / "run" / "checkpoints")]
    assert names == [checkpoints.folder_name(step) for step in range(result.step + 1)]
    assert slow[-1][0] == result.step


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from test_checkpoint_writer import EVERY_STEP, Beside
from run_task import run_task
from latentdiff import files

manifest = files.write_manifest
def struck(folder):
    if "step-00000003" in str(folder):
        os.kill(os.getpid(), signal.SIGKILL)
    manifest(folder)
files.write_manifest = struck
run_task(Beside(), replace(EVERY_STEP, run_dir=Path(sys.argv[1])))
"""


def test_killed_in_the_writer_it_goes_on_from_the_checkpoint_before(tmp_path):
    places = os.pathsep.join(p for p in sys.path if p)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    found = checkpoints.newest_whole(tmp_path / "run" / "checkpoints")
    assert found.path is not None and found.path.name == checkpoints.folder_name(2)
    config = dataclasses.replace(EVERY_STEP, run_dir=tmp_path / "run", resume=True)
    assert run_task(Beside(), config).stopped == "finished"
    run_task(RegressorTask(), dataclasses.replace(EVERY_STEP, run_dir=tmp_path / "whole"))
    assert bits(tmp_path / "run", 20) == bits(tmp_path / "whole", 20)


def test_only_one_copy_is_ever_made(tmp_path, slow, monkeypatch):
    alive: list[int] = []
    detached = trainer.snapshot.detached

    def counted(checkpoint, ema):
        alive.append(sum(t.name == "checkpoint writer" for t in threading.enumerate()))
        return detached(checkpoint, ema)

    monkeypatch.setattr(trainer.snapshot, "detached", counted)
    run_task(Beside(), dataclasses.replace(EVERY_STEP, steps=4, run_dir=tmp_path / "run"))
    assert alive == [0, 0, 0, 0]
