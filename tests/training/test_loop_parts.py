"""The loop's parts: schedule, guarded step, averaged weights, positions, clock, entry."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from regressor import Regressor, RegressorConfig, RegressorTask
from torch import nn

from latentdiff.errors import UserError
from latentdiff.training.context import RunContext
from latentdiff.training.logging import RunLog
from latentdiff.training.logging import clock as as_clock
from latentdiff.training.optimizers.ema import AveragedWeights
from latentdiff.training.optimizers.guarded_step import (
    GuardedStep,
    allocate,
    build_optimizer,
    trained_parameters,
)
from latentdiff.training.optimizers.learning_rate import (
    Decay,
    decay_over_last,
    learning_rate,
    learning_rate_scale,
    planned_decay,
)
from latentdiff.training.positions import Positions
from latentdiff.training.run import clock as clocks
from latentdiff.training.run.batches import fit_workers
from latentdiff.training.run.clock import RunClock
from latentdiff.training.run.entry import main_for
from latentdiff.training.run.processes import check_world, ema_device
from latentdiff.training.train_config import TrainConfig

CPU_DEVICE = torch.device("cpu")


def test_the_rate_warms_up_stays_and_falls_to_zero():
    decay = decay_over_last(0, 100, 0.2)
    assert decay == Decay(80, 100)
    scale = [learning_rate_scale(k, 10, decay) for k in range(101)]
    assert scale[0] == 0.1 and scale[9] == 1.0 and scale[79] == 1.0 and scale[80] == 1.0
    assert scale[85] == pytest.approx(1 - math.sqrt(0.25))
    assert learning_rate_scale(85, 10, decay, "linear") == pytest.approx(0.75)
    assert 0 < scale[99] < 0.03 and scale[100] == 0.0
    assert all(b < a for a, b in itertools.pairwise(scale[80:]))


def test_a_cosine_falls_from_the_warm_up_to_the_end():
    config = TrainConfig(lr_schedule="cosine", steps=110, warmup_steps=10, learning_rate=2.0)
    decay = planned_decay(config, 0)
    assert decay == Decay(10, 110)
    rate = [learning_rate(config, step, decay) for step in range(110)]
    assert rate[0] == pytest.approx(0.2) and rate[10] == 2.0
    assert rate[60] == pytest.approx(1.0) and rate[35] == pytest.approx(1 + math.sqrt(0.5))
    assert 0 < rate[109] < 1e-3
    assert planned_decay(config, 1000) == Decay(1000, 1110)  # a branch has no second warm-up


def test_a_constant_rate_stays():
    config = TrainConfig(lr_schedule="constant", steps=50, warmup_steps=5, learning_rate=2.0)
    assert planned_decay(config, 0) is None
    assert {learning_rate(config, step, None) for step in range(5, 50)} == {2.0}


def linear_guard(grad_clip: float = 0.0) -> tuple[nn.Linear, torch.optim.AdamW, GuardedStep]:
    module = nn.Linear(2, 1)
    optimizer = build_optimizer(module, learning_rate=0.1, weight_decay=0.0, betas=(0.9, 0.99))
    return module, optimizer, GuardedStep(optimizer, module, grad_clip=grad_clip)


def give(module: nn.Module, value: float) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_no_update_passes_once_a_gradient_was_not_finite(poison, grad_clip):
    module, optimizer, guard = linear_guard(grad_clip)
    give(module, 1.0)
    guard(torch.tensor(1.0), 0, 0.1)
    weights = [p.detach().clone() for p in module.parameters()]
    moments = [v.clone() for p in module.parameters() for v in optimizer.state[p].values()]
    give(module, 1.0)
    module.bias.grad.fill_(poison)
    guard(torch.tensor(2.0), 1, 0.1)
    for step in (2, 3):  # good gradients after it must not pass either
        give(module, 1.0)
        guard(torch.tensor(3.0), step, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))
    now = [v for p in module.parameters() for v in optimizer.state[p].values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, now, strict=True))
    trouble = guard.trouble()
    assert (trouble.step, trouble.loss, trouble.parameters) == (1, 2.0, ("bias",))


def test_a_loss_alone_that_is_not_finite_stops_the_update():
    module, _, guard = linear_guard()
    weights = [p.detach().clone() for p in module.parameters()]
    give(module, 1.0)
    guard(torch.tensor(float("inf")), 4, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))
    assert guard.trouble().step == 4 and guard.trouble().parameters == ()


def test_clipping_is_that_of_torch():
    torch.manual_seed(0)
    module, _, guard = linear_guard(grad_clip=0.5)
    twin = nn.Linear(2, 1)
    twin.load_state_dict(module.state_dict())
    reference = torch.optim.AdamW(twin.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(5):
        for a, b in zip(module.parameters(), twin.parameters(), strict=True):
            a.grad = torch.randn_like(a) * 3**step * 0.1
            b.grad = a.grad.clone()
        norm = nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        reference.step()
        assert guard(torch.tensor(1.0), step, 0.1) == pytest.approx(float(norm))
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_averaged_weights_follow_the_recursion_and_share_what_is_frozen():
    module = Regressor()
    averaged = AveragedWeights(module, 0.5)
    assert averaged.module.fixed.weight is module.fixed.weight
    expected = module.last.bias.detach().clone()
    for step in (1, 2, 3):
        with torch.no_grad():
            module.last.bias.add_(1.0)
        averaged.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.last.bias.detach()
    assert torch.allclose(averaged.parameters["last.bias"], expected)
    module.norm.running_mean.fill_(7.0)
    with averaged.ready() as ready:
        assert ready.norm.running_mean[0] == 7.0


def test_averaging_every_third_step_forgets_as_fast_as_every_step():
    module = nn.Linear(3, 2)
    each, third = AveragedWeights(module, 0.9), AveragedWeights(module, 0.9, every=3)
    start = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1.0)  # a step that stays: both draw near at one rate
    for step in range(1000, 1012):
        each.update(step + 1)
        third.update(step + 1)
    moved = each.parameters["weight"] - start
    assert torch.allclose(moved, torch.full_like(moved, 1 - 0.9**12), rtol=1e-5)
    assert torch.allclose(third.parameters["weight"], each.parameters["weight"], rtol=1e-5)
    before = third.parameters["weight"].clone()
    third.update(1013)
    assert torch.equal(before, third.parameters["weight"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_averaged_weights_lie_on_the_cpu_and_come_to_the_gpu_for_use():
    module = Regressor().cuda()
    averaged = AveragedWeights(module, 0.0, device=CPU_DEVICE)
    averaged.update(1)
    assert all(p.device.type == "cpu" for p in averaged.parameters.values())
    with averaged.ready() as ready:
        assert {p.device.type for p in ready.parameters()} == {"cuda"}
        assert torch.equal(ready.last.weight, module.last.weight)
        assert ready.fixed.weight is module.fixed.weight
    assert all(p.device.type == "cpu" for p in averaged.parameters.values())
    assert module.fixed.weight.device.type == "cuda"


def test_an_odd_place_for_the_average_is_refused():
    here = SimpleNamespace(sharded=False, device=CPU_DEVICE)
    place = lambda name: ema_device(TrainConfig(ema_device=name), here)  # noqa: E731
    assert place("auto") is None and place("cpu") == CPU_DEVICE
    assert ema_device(TrainConfig(), SimpleNamespace(sharded=True)) == CPU_DEVICE
    with pytest.raises(UserError, match="ema_device is disk, expected auto, cpu or cuda:1"):
        place("disk")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="ema_device is cuda:1, but torch finds no CUDA"):
            place("cuda:1")


def test_moments_are_there_before_the_first_step_and_are_zero():
    module = Regressor()
    optimizer = build_optimizer(module, learning_rate=0.1, weight_decay=0.1, betas=(0.9, 0.99))
    before = [p.detach().clone() for p in module.parameters()]
    allocate(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())
    for parameter in trained_parameters(module).values():
        assert set(optimizer.state[parameter]) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(not value.any() for value in optimizer.state[parameter].values())


def test_trained_weights_that_are_not_float32_are_an_error():
    with pytest.raises(AssertionError, match=r"gain is torch\.float16"):
        build_optimizer(Regressor().half(), learning_rate=1.0, weight_decay=0.0, betas=(0.9, 0.9))


@pytest.mark.parametrize(("processes", "micro"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_every_position_is_dealt_once_whatever_the_processes(processes, micro):
    dealt = [
        position
        for rank in range(processes)
        for m in range(micro)
        for position in Positions(5, 100, 8, micro, processes, rank).micro_batch(7, m)
    ]
    assert sorted(dealt) == list(range(116, 124))


def test_a_batch_that_cannot_be_dealt_evenly_is_refused():
    with pytest.raises(UserError, match="batch_size 6 is not a multiple"):
        Positions(0, 0, 6, micro_batches=2, processes=2)


def test_workers_that_overrun_shared_memory_are_reduced():
    positions, task = Positions(0, 0, 4), RegressorTask()
    size = sum(t.numel() * t.element_size() for t in task.batch(range(4)).values())
    assert fit_workers(task, positions, 3, 4, None) == (3, 4)
    assert fit_workers(task, positions, 3, 4, 1 << 30) == (3, 4)
    assert fit_workers(task, positions, 3, 4, int(10 * size)) == (3, 2)
    assert fit_workers(task, positions, 3, 4, int(2 * size))[0] == 0


def run_clock(monkeypatch, **changes) -> tuple[RunClock, SimpleNamespace]:
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(clocks, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    config = dataclasses.replace(TrainConfig(), **changes)
    made = RunClock(config, began=0.0, step=0, begin_step=0, minutes_before=0.0, recorded=None)
    return made, now


def run_until_end(clock: RunClock, now: SimpleNamespace, *, compiling: float = 30.0) -> int:
    step = 0
    while clock.end is None or step < clock.end:
        clock.plan(step)
        now.seconds += compiling / 3 if step < 3 else 0.5
        step += 1
        clock.tick(step)
        assert step < 10_000
    return step


def test_the_decay_of_a_timed_run_ends_with_its_time(monkeypatch):
    clock, now = run_clock(monkeypatch, max_minutes=10.0, decay_fraction=0.2)
    step = run_until_end(clock, now)
    assert 0.99 * 600 < now.seconds <= 600  # compiling counts, and does not spoil the rate
    assert clock.decay.end == step
    assert (clock.decay.start - 3) * 0.5 + 30 == pytest.approx(480, abs=1)


def test_steps_that_fit_into_the_time_keep_their_own_decay(monkeypatch):
    clock, now = run_clock(monkeypatch, max_minutes=10.0, steps=400)
    assert run_until_end(clock, now) == 400 and clock.decay == Decay(340, 400)


def test_steps_that_do_not_fit_give_way_to_the_time(monkeypatch):
    clock, now = run_clock(monkeypatch, max_minutes=10.0, steps=4000)
    assert run_until_end(clock, now) < 1200 and 590 < now.seconds <= 600


def test_a_run_far_over_its_time_is_out_of_time(monkeypatch):
    clock, now = run_clock(monkeypatch, max_minutes=10.0)
    now.seconds = 10.9 * 60
    assert not clock.out_of_time()
    now.seconds = 11.1 * 60
    assert clock.out_of_time()


def test_processes_that_disagree_with_the_launcher_are_refused():
    check_world(2, 2)
    with pytest.raises(UserError, match="started 2 processes"):
        check_world(2, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"decay_fraction": 1.0}, "decay_fraction"),
        ({"batch_size": 5, "gradient_accumulation": 2}, "multiple of gradient_accumulation"),
        ({"init_from": "a", "decay_from": "b"}, "exclude each other"),
        ({"init_from": "a", "resume": True}, "give one"),
        ({"max_minutes": -1.0}, "max_minutes"),
        ({"timeout_minutes": 0.0}, "timeout_minutes"),
        ({"ema_every": 0}, "ema_every is 0"),
        ({"lr_schedule": "cosine", "max_minutes": 5.0}, "lr_schedule cosine needs steps"),
        ({"lr_schedule": "constant", "decay_from": "a"}, "decay_from is a decay of wsd's"),
        ({"compile": "reduce-overhead", "gradient_accumulation": 2}, "CUDA graphs"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**changes)


def test_the_entry_point_turns_a_mistake_into_one_line_and_exit_code_2(capsys):
    def build(config: RegressorConfig, context: RunContext) -> RegressorTask:
        return RegressorTask(config.train.seed)

    called = {"name": "regressor", "prog": "regressor"}
    code = main_for(build, RegressorConfig, ["--learning-rat", "1"], **called)
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("regressor: error: ") and error.count("\n") == 1
    assert main_for(build, RegressorConfig, ["--dry-run", "--steps", "4"], **called) == 0


def test_time_is_written_as_a_clock():
    assert [as_clock(s) for s in (5, 65, 3661, None)] == ["0:05", "1:05", "1:01:01", "?"]


def test_a_missing_tensorboard_is_named_and_costs_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = RunLog(tmp_path / "log.jsonl", tmp_path / "tensorboard", step=0)
    log.scalars("train", 3, {"loss": math.nan, "error": 0.5})
    log.close()
    assert "tensorboard is not installed" in capsys.readouterr().out
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert (line["step"], line["loss"], line["error"]) == (3, "nan", 0.5)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    reader = "tensorboard.backend.event_processing.event_accumulator"
    event_accumulator = pytest.importorskip(reader)
    log = RunLog(tmp_path / "log.jsonl", tmp_path / "tensorboard", step=0)
    log.scalars("train", 3, {"loss": 0.25})
    log.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 0.25)]
