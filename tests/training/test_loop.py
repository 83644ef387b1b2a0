"""The loop, on a tiny real task: exact resuming, the guard, the time limit, the folder's rules."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from regressor import RegressorTask
from run_task import run_task
from safetensors.torch import load_file

from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.errors import UserError
from latentdiff.training.launch import config_path
from latentdiff.training.optimizers.guarded_step import NonFiniteError
from latentdiff.training.run import loop
from latentdiff.training.train_config import TrainConfig

BASE = TrainConfig(
    steps=20,
    batch_size=6,
    learning_rate=1e-2,
    warmup_steps=3,
    ema_decay=0.9,
    log_every=7,
    validate_every=0,
    sheet_every=0,
    device="cpu",
    tensorboard=False,
)


def settings(run_dir: Path, **changes: Any) -> TrainConfig:
    return dataclasses.replace(BASE, run_dir=run_dir, **changes)


def tensors(run_dir: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    folder = run_dir / "checkpoints" / checkpoints.folder_name(step)
    names = (checkpoints.WEIGHTS, checkpoints.EMA, checkpoints.OPTIMIZER)
    # Cloned: safetensors maps the file, and a test damages one.
    return {n: {k: v.clone() for k, v in load_file(folder / n).items()} for n in names}


def assert_same_bits(a: Any, b: Any) -> None:
    assert a.keys() == b.keys()
    for part in a:
        assert a[part].keys() == b[part].keys()
        for name in a[part]:
            assert torch.equal(a[part][name], b[part][name]), (part, name)


class Stopping(RegressorTask):
    """Sends this process SIGTERM when the batch that begins at `at` is asked for."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def batch(self, positions):
        if positions[0] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(positions)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_ten_steps_resume_and_ten_more_equal_twenty_bit_for_bit(tmp_path, accumulation):
    whole, parts = RegressorTask(), Stopping(at=9 * 6)
    run_task(whole, settings(tmp_path / "a", gradient_accumulation=accumulation))
    config = settings(tmp_path / "b", gradient_accumulation=accumulation)
    first = run_task(parts, config)
    assert (first.stopped, first.step, first.signal) == ("interrupted", 10, signal.SIGTERM)
    resumed = RegressorTask()
    last = run_task(resumed, dataclasses.replace(config, resume=True))
    assert (last.stopped, last.step, last.positions) == ("finished", 20, 120)
    assert parts.seen + resumed.seen == whole.seen
    assert_same_bits(tensors(tmp_path / "a", 20), tensors(tmp_path / "b", 20))


def test_workers_change_neither_order_nor_weights(tmp_path):
    run_task(RegressorTask(), settings(tmp_path / "a", steps=8))
    run_task(RegressorTask(), settings(tmp_path / "b", steps=8, num_workers=2))
    assert_same_bits(tensors(tmp_path / "a", 8), tensors(tmp_path / "b", 8))


def test_a_run_learns_and_publishes_its_averaged_weights(tmp_path):
    task = RegressorTask()
    with torch.no_grad():
        before = task.validate(task.module.eval(), 0)
    config = settings(tmp_path, steps=60, validate_every=30, sheet_every=30, log_every=30)
    result = run_task(task, config)
    assert result.validation["error"] < 0.8 * before["error"]
    assert sorted(p.name for p in (tmp_path / "sheets").iterdir()) == [
        "step-00000000.png",
        "step-00000030.png",
        "step-00000060.png",
    ]
    exported = load_file(result.export / "model.safetensors")
    averaged = tensors(tmp_path, 60)[checkpoints.EMA]
    assert averaged and all(torch.equal(exported[name], averaged[name]) for name in averaged)
    assert not torch.equal(averaged["last.weight"], task.module.last.weight)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if x["event"] == "train"] == [30, 60]
    assert (tmp_path / "config.yaml").is_file()


class Watched(RegressorTask):
    """Notes when it is looked at, and what there was in memory by then."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def batch(self, positions):
        self.events.append(f"batch {positions[0]}")
        return super().batch(positions)

    def validate(self, module, step):
        self.events.append(f"validate {step}")
        return super().validate(module, step)

    def sheet(self, module, step):
        self.events.append(f"sheet {step}")
        return super().sheet(module, step)


def test_a_run_is_validated_and_drawn_before_its_first_step_but_not_when_it_resumes(tmp_path):
    task = Watched()
    run_task(task, settings(tmp_path, steps=2, decay_fraction=0.0))
    assert task.events[:3] == ["validate 0", "sheet 0", "batch 0"]
    again = Watched()
    run_task(again, settings(tmp_path, steps=3, decay_fraction=0.0, resume=True))
    assert again.events == ["batch 12", "validate 3", "sheet 3"]
    without = Watched()
    run_task(without, settings(tmp_path / "b", steps=1, validate_at_start=False))
    assert without.events == ["batch 0", "validate 1", "sheet 1"]


def test_a_validation_that_fails_fails_before_the_first_step(tmp_path):
    class Large(Watched):
        def validate(self, module, step):
            raise torch.OutOfMemoryError("no room")

    task = Large()
    with pytest.raises(UserError, match="validating at step 0 does not fit into memory"):
        run_task(task, settings(tmp_path))
    assert task.events == []


def test_an_update_that_finds_no_memory_says_what_makes_it_smaller(tmp_path):
    task = RegressorTask()

    def forward(module, inputs):
        torch.empty(2**60, dtype=torch.uint8)

    task.module.register_forward_pre_hook(forward)
    config = settings(tmp_path, validate_at_start=False)
    size = config.batch_size // config.gradient_accumulation
    with pytest.raises(UserError, match=rf"an update of {size} samples at once.*--batch-size"):
        run_task(task, config)
    other = RegressorTask()
    other.module.register_forward_pre_hook(lambda module, inputs: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):  # not a lack of memory: left as it is
        run_task(other, dataclasses.replace(config, run_dir=tmp_path / "other"))


@pytest.mark.parametrize("every", [1, 4])
def test_the_average_is_saved_beside_the_raw_weights_and_resumes_bit_for_bit(tmp_path, every):
    run_task(RegressorTask(), settings(tmp_path / "a", ema_every=every, ema_device="cpu"))
    config = settings(tmp_path / "b", ema_every=every)
    run_task(Stopping(at=9 * 6), config)
    run_task(RegressorTask(), dataclasses.replace(config, resume=True))
    made = tensors(tmp_path / "a", 20)
    assert_same_bits(made, tensors(tmp_path / "b", 20))
    ema, raw = made[checkpoints.EMA], made[checkpoints.WEIGHTS]
    assert ema.keys() <= raw.keys()
    assert all(not torch.equal(ema[name], raw[name]) for name in ema)


def test_a_poisoned_batch_stops_the_run_before_anything_changes(tmp_path):
    clean = RegressorTask()
    run_task(clean, settings(tmp_path / "clean", steps=5, warmup_steps=0, decay_fraction=0.0))
    task = RegressorTask(poisoned=frozenset({5 * 6 + 2}))
    config = settings(tmp_path / "bad", warmup_steps=0, decay_fraction=0.0)
    with pytest.raises(NonFiniteError, match=r"step 5, batch positions 30…35: loss nan; .*first"):
        run_task(task, config)
    for name, value in clean.module.named_parameters():
        assert torch.equal(value, dict(task.module.named_parameters())[name]), name
    assert checkpoints.stored(tmp_path / "bad" / "checkpoints") == []
    assert "non_finite" in (tmp_path / "bad" / "log.jsonl").read_text()


def test_a_run_that_stops_leaves_a_report_that_says_why(tmp_path):
    with pytest.raises(NonFiniteError, match="step 2"):
        run_task(RegressorTask(poisoned=frozenset({13})), settings(tmp_path))
    assert "Stopped at step 2" in (tmp_path / "report.html").read_text("utf-8")


def test_a_report_that_cannot_be_written_does_not_end_the_run(tmp_path, capsys):
    (tmp_path / "report.html").mkdir()
    result = run_task(RegressorTask(), settings(tmp_path, validate_every=10))
    assert result.stopped == "finished" and result.export is not None
    assert "no report at step 10: " in capsys.readouterr().out
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    told = [event for event in events if event["event"] == "no_report"]
    assert {event["step"] for event in told} == {0, 10, 20}
    assert all("report.html is a folder" in event["message"] for event in told)


def test_the_same_command_goes_on_after_a_restart_by_torchrun(tmp_path, monkeypatch):
    run_task(RegressorTask(), settings(tmp_path / "a"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    config = settings(tmp_path / "b")
    assert run_task(Stopping(at=9 * 6), config).step == 10  # nothing there yet: it begins
    assert run_task(RegressorTask(), config).step == 20
    assert_same_bits(tensors(tmp_path / "a", 20), tensors(tmp_path / "b", 20))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(UserError, match="already holds a run at step 20"):
        run_task(RegressorTask(), config)


def test_a_second_trainer_on_the_same_folder_is_refused(tmp_path):
    with files.FolderLock(tmp_path), pytest.raises(UserError, match="in use by process"):
        run_task(RegressorTask(), settings(tmp_path))


def test_a_used_folder_needs_resume_and_an_empty_one_cannot_resume(tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        run_task(RegressorTask(), settings(tmp_path, resume=True))
    run_task(RegressorTask(), settings(tmp_path, steps=2))
    with pytest.raises(UserError, match="already holds a run at step 2"):
        run_task(RegressorTask(), settings(tmp_path))


def test_a_folder_that_cannot_be_used_is_refused_before_the_task_is_built(tmp_path, monkeypatch):
    built = []

    def begin(**changes):
        def build(context):
            built.append(context)
            return RegressorTask()

        return loop.run(build, settings(tmp_path, steps=2, **changes), name="regressor")

    with pytest.raises(UserError, match="nothing to resume"):
        begin(resume=True)
    with pytest.raises(UserError, match="no folder at"):
        begin(init_from=tmp_path / "nowhere")
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        begin(mixed_precision="fp16")
    assert not built
    begin()
    with pytest.raises(UserError, match="already holds a run at step 2"):
        begin()
    with files.FolderLock(tmp_path), pytest.raises(UserError, match="in use by process"):
        begin(resume=True)
    with pytest.raises(UserError, match="with --seed 0, not 1"):
        begin(resume=True, seed=1)
    assert len(built) == 1 and built[0].folder == tmp_path and built[0].device.type == "cpu"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert begin().step == 2 and built[1].positions.begin_step == 2


def test_resume_passes_over_a_damaged_checkpoint_and_says_so(tmp_path, capsys):
    run_task(RegressorTask(), settings(tmp_path, steps=20))  # leaves steps 17 and 20
    newest = tmp_path / "checkpoints" / checkpoints.folder_name(20)
    whole = tensors(tmp_path, 20)
    damaged = bytearray((newest / checkpoints.WEIGHTS).read_bytes())
    damaged[-1] ^= 1
    (newest / checkpoints.WEIGHTS).write_bytes(bytes(damaged))
    result = run_task(RegressorTask(), settings(tmp_path, steps=20, resume=True))
    text = capsys.readouterr().out
    assert "step-00000020: weights.safetensors differs" in text
    assert "resuming from" in text and "step-00000017" in text
    assert result.step == 20
    assert_same_bits(tensors(tmp_path, 20), whole)


def test_more_steps_after_the_decay_has_begun_are_not_made_and_it_says_so(tmp_path, capsys):
    run_task(RegressorTask(), settings(tmp_path, steps=4))
    result = run_task(RegressorTask(), settings(tmp_path, steps=9, resume=True))
    assert result.step == 4
    assert "ends at step 4, not 9; to go on from before it, --continue-from" in (
        capsys.readouterr().out
    )


def test_another_seed_or_another_task_cannot_resume(tmp_path):
    run_task(RegressorTask(), settings(tmp_path, steps=2))
    with pytest.raises(UserError, match="begun with --seed 0"):
        run_task(RegressorTask(1), settings(tmp_path, resume=True, seed=1))
    other = RegressorTask()
    other.name = "other"
    with pytest.raises(UserError, match="checkpoint of the task regressor"):
        run_task(other, settings(tmp_path, resume=True))


def test_a_time_limit_alone_fixes_the_decay_once_and_ends_the_run(tmp_path):
    config = settings(tmp_path, steps=None, max_minutes=1.5 / 60, decay_fraction=0.4)
    result = run_task(RegressorTask(), config)
    state = checkpoints.read_state(result.checkpoint)
    assert result.stopped in ("finished", "time")
    assert 0 < state.decay_start < state.decay_end
    if result.stopped == "finished":
        assert result.step == state.decay_end
    kept = checkpoints.read_state(
        tmp_path / "checkpoints" / checkpoints.folder_name(state.decay_start)
    )
    assert kept.keep and (kept.decay_start, kept.decay_end) == (state.decay_start, state.decay_end)


def test_a_decay_branches_off_a_checkpoint_into_a_new_run(tmp_path):
    run_task(RegressorTask(), settings(tmp_path / "a", steps=10, decay_fraction=0.0))
    source = tmp_path / "a" / "checkpoints" / checkpoints.folder_name(10)
    result = run_task(RegressorTask(), settings(tmp_path / "b", steps=6, decay_from=source))
    state = checkpoints.read_state(result.checkpoint)
    assert (state.begin_step, state.decay_start, state.decay_end) == (10, 10, 16)
    assert (result.step, state.positions) == (16, 96)
    further = run_task(RegressorTask(), settings(tmp_path / "c", steps=10, continue_from=source))
    assert checkpoints.read_state(further.checkpoint).decay_start == 18
    assert checkpoints.stored(tmp_path / "a" / "checkpoints") == [(10, source)]


@pytest.mark.parametrize("what", ["checkpoint", "run", "export"])
def test_init_from_takes_the_averaged_weights_only(tmp_path, what):
    made = run_task(RegressorTask(), settings(tmp_path / "a", steps=4))
    source = {"checkpoint": made.checkpoint, "run": made.run_dir, "export": made.export}[what]
    task = RegressorTask()
    config = settings(
        tmp_path / "b", steps=1, init_from=source, learning_rate=1e-12, weight_decay=0.0
    )
    run_task(task, config)
    for name, value in load_file(made.checkpoint / checkpoints.EMA).items():
        assert torch.allclose(value, dict(task.module.named_parameters())[name], atol=1e-9), name
    assert checkpoints.read_state(tmp_path / "b/checkpoints/step-00000001").positions == 6


def test_a_dry_run_prints_the_plan_and_touches_nothing(tmp_path, capsys):
    result = run_task(RegressorTask(), settings(tmp_path / "run", dry_run=True))
    text = capsys.readouterr().out
    assert result.stopped == "dry run" and not (tmp_path / "run").exists()
    assert "batch_size: 6" in text and "159 trained" in text and "6 frozen" in text
    assert "step        17" in text


def test_bf16_and_channels_last_train_on_cpu(tmp_path):
    config = settings(tmp_path, steps=4, mixed_precision="bf16", channels_last=True)
    result = run_task(RegressorTask(), config)
    assert result.metrics == {} and result.step == 4
    assert all(
        t.dtype == torch.float32
        for t in tensors(tmp_path, 4)[checkpoints.WEIGHTS].values()
        if t.is_floating_point()
    )


def test_neither_steps_nor_minutes_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither steps nor max_minutes"):
        run_task(RegressorTask(), settings(tmp_path, steps=None))


def launch(run_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["--config_file", str(config_path("cpu2"))]
    command += [str(Path(__file__).with_name("regressor.py")), "--run-dir", str(run_dir)]
    command += ["--steps", "6", "--batch-size", "8", "--warmup-steps", "1", "--plain"]
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *command, *options],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_launch_of_two_processes_makes_the_weights_of_one(tmp_path, accumulation):
    options = ("--gradient-accumulation", str(accumulation), "--ema-decay", "0.9")
    two = launch(tmp_path / "two", *options)
    assert two.returncode == 0, two.stderr
    assert "2 processes, backend gloo, device cpu" in two.stdout
    config = settings(tmp_path / "one", steps=6, batch_size=8, warmup_steps=1, learning_rate=1e-3)
    run_task(RegressorTask(plain=True), config)
    a, b = tensors(tmp_path / "one", 6), tensors(tmp_path / "two", 6)
    for part in (checkpoints.WEIGHTS, checkpoints.EMA):
        for name, value in a[part].items():
            assert torch.allclose(value, b[part][name], atol=1e-5), (part, name)
    assert checkpoints.read_state(tmp_path / "two/checkpoints/step-00000006").positions == 48
