"""fp16: the loss scale, what overflow skips and what it stops; and optimizers without a guard."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from regressor import RegressorTask
from run_task import run_task
from torch import nn

from latentdiff import devices
from latentdiff.checkpoints import store as checkpoints
from latentdiff.errors import UserError
from latentdiff.training.optimizers import guarded_step as optim
from latentdiff.training.optimizers.guarded_step import GuardedStep, NonFiniteError, build_optimizer
from latentdiff.training.optimizers.loss_scale import LossScale
from latentdiff.training.train_config import TrainConfig

CPU = torch.device("cpu")
BASE = TrainConfig(
    steps=8,
    batch_size=6,
    learning_rate=1e-2,
    warmup_steps=0,
    decay_fraction=0.0,
    ema_decay=0.9,
    log_every=1,
    validate_every=0,
    sheet_every=0,
    device="cpu",
    tensorboard=False,
)


def overflow(scale: LossScale, *updates: bool) -> list[bool]:
    return [bool(scale.update(torch.tensor(bad))) for bad in updates]


def test_the_scale_halves_on_overflow_and_doubles_after_many_good_updates():
    scale = LossScale(CPU, initial=1024.0, growth_interval=3)
    overflow(scale, True, True)
    assert (float(scale.scale), int(scale.skipped)) == (256.0, 2)
    overflow(scale, False, False)
    assert float(scale.scale) == 256.0
    overflow(scale, False)
    assert float(scale.scale) == 512.0
    overflow(scale, False, False, True, False, False)  # an overflow begins the count anew
    assert float(scale.scale) == 256.0
    overflow(scale, False)
    assert float(scale.scale) == 512.0


def test_only_overflows_in_a_row_are_one_too_many():
    scale = LossScale(CPU, in_a_row=3)
    assert overflow(scale, True, True, False, True, True, True) == [False] * 5 + [True]


def test_the_scale_goes_through_a_checkpoint():
    scale = LossScale(CPU)
    overflow(scale, True, False, True)
    again = LossScale(CPU)
    again.restore(scale.state())
    assert {k: float(v) for k, v in again.state().items()} == {
        "scale": 2.0**14,
        "good": 0.0,
        "overflows": 1.0,
        "skipped": 2.0,
    }


def linear(scale: LossScale | None, clip: float, kind: str = "fused"):
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    if kind == "fused":
        made = build_optimizer(module, learning_rate=0.1, weight_decay=0.0, betas=(0.9, 0.99))
    else:
        made = torch.optim.Adam(module.parameters(), lr=0.1, betas=(0.9, 0.99))
    return module, made, GuardedStep(made, module, grad_clip=clip, loss_scale=scale)


def give(module: nn.Module, factor: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw) * factor


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["fused", "without a guard"])
def test_a_scaled_loss_makes_the_updates_of_one_that_is_not(clip, kind):
    scale = LossScale(CPU, growth_interval=2)
    plain, _, guard = linear(None, clip)
    scaled, _, guarded = linear(scale, clip, kind)
    for step in range(6):
        factor = float(scale.scale)
        give(plain, 1.0, step)
        give(scaled, factor, step)
        a = guard(torch.tensor(1.0), step, 0.1)
        b = guarded(torch.tensor(1.0), step, 0.1)
        assert float(a) == pytest.approx(float(b), rel=1e-6)
    assert float(scale.scale) == 2.0**19
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["fused", "without a guard"])
def test_an_overflow_leaves_out_one_update_and_the_next_goes_on(kind):
    scale = LossScale(CPU)
    module, optimizer, guard = linear(scale, 1.0, kind)
    give(module, 2.0**16, 0)
    guard(torch.tensor(1.0), 0, 0.1)
    before = [p.detach().clone() for p in module.parameters()]
    steps = [float(optimizer.state[p]["step"]) for p in module.parameters()]
    give(module, 1.0, 1)
    module.bias.grad[0] = math.inf
    guard(torch.tensor(1.0), 1, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert steps == [float(optimizer.state[p]["step"]) for p in module.parameters()]
    assert guard.trouble() is None and float(scale.scale) == 2.0**15
    give(module, 2.0**15, 2)
    guard(torch.tensor(1.0), 2, 0.1)
    assert not any(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_a_loss_that_is_not_finite_stops_at_once_whatever_the_scale():
    module, _, guard = linear(LossScale(CPU), 1.0)
    give(module, math.nan, 0)
    guard(torch.tensor(math.nan), 5, 0.1)
    assert (guard.trouble().step, guard.trouble().overflows) == (5, 0)


def test_overflows_in_a_row_stop_and_name_the_step_and_the_parameter():
    module, _, guard = linear(LossScale(CPU, in_a_row=3), 1.0)
    for step in range(5):
        give(module, 1.0, step)
        module.bias.grad[0] = math.inf
        guard(torch.tensor(1.0), step, 0.1)
    trouble = guard.trouble()
    assert (trouble.step, trouble.overflows, trouble.parameters) == (2, 3, ("bias",))
    assert "3 updates in a row and with ever smaller loss scales" in optim.describe(trouble, [7])


def test_fp16_without_cuda_is_refused_by_name(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="fp16 needs a CUDA device, this is cpu"):
        run_task(RegressorTask(), dataclasses.replace(BASE, mixed_precision="fp16"))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UserError, match="fp16 needs a CUDA device, this is cpu"):
        run_task(RegressorTask(), dataclasses.replace(BASE, run_dir=tmp_path, threads=1))


@pytest.fixture
def fp16_on_cpu(monkeypatch):
    """The loop's fp16 path, autocast and all, where a CPU stands in for the GPU."""
    monkeypatch.setattr(devices, "autocast_dtype", lambda asked, device: torch.float16)


def numbers(run_dir: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line["event"] == "train"]


def bits(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run_dir / "checkpoints" / checkpoints.folder_name(step)
    checkpoint = checkpoints.load(folder)
    return {**checkpoint.weights, **checkpoint.optimizer}


class Steep(RegressorTask):
    """The loss times 2^k, so that the first loss scales overflow fp16's 65504."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def batch(self, positions):
        made = super().batch(positions)
        return {**made, "poison": made["poison"] * self.factor}


def test_an_fp16_run_skips_overflows_learns_and_resumes_bit_for_bit(tmp_path, fp16_on_cpu):
    run_dir = tmp_path / "a"
    run_task(Steep(50.0), dataclasses.replace(BASE, run_dir=run_dir))
    skipped, scales = numbers(run_dir, "skipped_updates"), numbers(run_dir, "loss_scale")
    assert 0 < skipped[-1] < 8 and scales[-1] == 2.0 ** (16 - skipped[-1])
    state = bits(run_dir, 8)
    assert all(t.dtype == torch.float32 for n, t in state.items() if n.endswith("weight"))
    assert float(state["step.last.weight"]) == 8 - skipped[-1]
    first = dataclasses.replace(BASE, run_dir=tmp_path / "b")
    run_task(Steep(50.0), dataclasses.replace(first, steps=3))
    run_task(Steep(50.0), dataclasses.replace(first, resume=True))
    again = bits(tmp_path / "b", 8)
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_an_fp16_run_that_only_overflows_stops_with_its_weights_unmoved(tmp_path, fp16_on_cpu):
    task = Steep(1e30)
    before = {n: p.detach().clone() for n, p in task.module.named_parameters()}
    with pytest.raises(NonFiniteError, match=r"step 19, .* 20 updates in a row"):
        run_task(task, dataclasses.replace(BASE, run_dir=tmp_path, steps=40))
    assert all(torch.equal(before[n], p) for n, p in task.module.named_parameters())


def test_a_missing_bitsandbytes_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match="needs the package bitsandbytes: pip install"):
        run_task(
            RegressorTask(), dataclasses.replace(BASE, run_dir=tmp_path, optimizer="adamw8bit")
        )


class Wide(RegressorTask):
    """With a weight of 4608 values: below 4096, bitsandbytes keeps 32 bits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.module.first = nn.Conv2d(2, 256, 3, padding=1)
        self.module.norm = nn.Identity()
        self.module.last = nn.Conv2d(256, 2, 3, padding=1)


def test_eight_bit_moments_train_and_resume_bit_for_bit(tmp_path):
    pytest.importorskip("bitsandbytes")
    config = dataclasses.replace(BASE, optimizer="adamw8bit", run_dir=tmp_path / "a")
    task = Wide()
    run_task(task, config)
    assert numbers(tmp_path / "a", "error")[-1] < numbers(tmp_path / "a", "error")[0]
    whole = bits(tmp_path / "a", 8)
    assert whole["state1.first.weight"].dtype == torch.uint8
    config = dataclasses.replace(config, run_dir=tmp_path / "b")
    run_task(Wide(), dataclasses.replace(config, steps=3))
    run_task(Wide(), dataclasses.replace(config, resume=True))
    again = bits(tmp_path / "b", 8)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    with pytest.raises(UserError, match="moments are those of --optimizer adamw8bit"):
        run_task(Wide(), dataclasses.replace(config, optimizer="adamw", resume=True, steps=9))
