"""Muon: what it makes orthogonal, which parameters it takes, and that its runs resume exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from regressor import RegressorTask
from run_task import run_task
from safetensors.torch import load_file
from together import together
from torch import Tensor, nn

from latentdiff.checkpoints import store as checkpoints
from latentdiff.errors import UserError
from latentdiff.training.optimizers import muon
from latentdiff.training.optimizers.guarded_step import GuardedStep, build_optimizer
from latentdiff.training.train_config import TrainConfig

BASE = TrainConfig(
    steps=6,
    batch_size=8,
    learning_rate=1e-2,
    optimizer="muon",
    warmup_steps=2,
    decay_fraction=0.0,
    ema_decay=0.9,
    log_every=1,
    validate_every=0,
    sheet_every=0,
    validate_at_start=False,
    device="cpu",
    tensorboard=False,
)


class Layers(nn.Module):
    """A little of everything that a U-Net trains."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(2, 8, 3, padding=1)
        self.words = nn.Embedding(5, 8)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 6, 1)
        self.linear = nn.Linear(6, 6)
        self.row = nn.Linear(6, 1)
        self.norm = nn.LayerNorm(6)
        self.conv_out = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: Tensor, word: Tensor) -> Tensor:
        h = self.middle(torch.tanh(self.conv_in(x)) + self.words(word)[:, :, None, None])
        h = self.norm(self.linear(self.point(torch.tanh(h)).movedim(1, -1)))
        h = (h + self.row(h)).movedim(-1, 1)
        return self.conv_out(h).square().mean()


def built(module: nn.Module) -> torch.optim.Optimizer:
    return build_optimizer(
        module, learning_rate=1e-2, weight_decay=0.1, betas=(0.9, 0.99), kind="muon"
    )


def layers() -> Layers:
    torch.manual_seed(0)
    return Layers()


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1)), torch.arange(3)


@pytest.mark.parametrize("in_bfloat16", [False, True])
@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (24, 30), (30, 24), (1, 9)])
def test_singular_values_come_near_one_and_the_directions_stay(shape, in_bfloat16, monkeypatch):
    monkeypatch.setattr(muon, "_in_bfloat16", lambda x: in_bfloat16)
    matrices = torch.randn(4, *shape, generator=torch.Generator().manual_seed(2))
    found = muon.orthogonalise(matrices)
    assert found.shape == matrices.shape
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.diagonal(u.mT @ found @ vh.mT, dim1=-2, dim2=-1)
    sure = s / s.norm(dim=-1, keepdim=True) > 0.03  # smaller ones take more iterations
    assert values[sure].min() > 0.65 and values.max() < 1.25
    rest = u.mT @ found @ vh.mT - torch.diag_embed(values)
    assert rest.abs().max() < (0.03 if in_bfloat16 else 1e-3)


@pytest.mark.parametrize("fast", [False, True])
def test_only_a_processor_that_multiplies_bfloat16_iterates_in_it_and_no_wide_matrix(
    fast, monkeypatch
):
    monkeypatch.setattr(muon.devices, "multiplies_bfloat16", lambda device: fast)
    assert muon._in_bfloat16(torch.ones(1, 8, 8)) == fast
    assert not muon._in_bfloat16(torch.ones(1, 8, 16))
    assert not muon._in_bfloat16(torch.ones(1, 8, 8, dtype=torch.float64))


def test_both_ways_to_iterate_give_the_same_matrices():
    x = torch.randn(3, 12, 60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(muon._plain(x), muon._through_square(x), rtol=1e-9, atol=1e-10)
    single = x.float()
    torch.testing.assert_close(
        muon._plain(single), muon._through_square(single), rtol=1e-3, atol=1e-4
    )


def test_muon_takes_the_matrices_and_inner_convolutions_and_adamw_the_rest():
    module = layers()
    embeddings = {id(module.words.weight)}
    chosen = {n for n, p in module.named_parameters() if muon.is_matrix(n, p, embeddings)}
    assert chosen == {"middle.weight", "point.weight", "linear.weight"}
    optimizer = built(module)
    of_muon = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert of_muon == {id(dict(module.named_parameters())[name]) for name in chosen}
    decayed = {group.get("weight_decay") for group in optimizer.param_groups[1:]}
    assert decayed == {0.1, 0.0}


def test_a_non_finite_gradient_changes_no_weight_and_no_state():
    module = layers()
    optimizer = built(module)
    guard = GuardedStep(optimizer, module, grad_clip=1.0)
    for step, poison in enumerate((1.0, float("nan"), 1.0)):
        before = [p.detach().clone() for p in module.parameters()]
        state = [v.clone() for s in optimizer.state.values() for v in s.values()]
        loss = module(*inputs()) * poison
        loss.backward()
        guard(loss.detach(), step, 1e-2)
        same = all(map(torch.equal, before, module.parameters()))
        after = [v for s in optimizer.state.values() for v in s.values()]
        assert same == (step > 0) and all(map(torch.equal, state, after)) == (step > 0)
    assert guard.trouble() is not None


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weight_decay_draws_matrices_to_zero_by_the_rate_and_nothing_else(decay: float) -> None:
    layers = Layers()
    before = {name: p.detach().clone() for name, p in layers.named_parameters()}
    optimizer = build_optimizer(
        layers,
        learning_rate=1e-3,
        weight_decay=0.0,
        betas=(0.9, 0.99),
        kind="muon",
        muon_learning_rate=0.02,
        muon_weight_decay=decay,
    )
    for parameter in layers.parameters():
        parameter.grad = torch.zeros_like(parameter)
    GuardedStep(optimizer, layers, grad_clip=0.0)(torch.zeros(()), 1, 1e-3)
    assert isinstance(optimizer, muon.Muon)
    chosen = {id(p) for p in optimizer.matrices}
    for name, parameter in layers.named_parameters():
        kept = 1 - 0.02 * decay if id(parameter) in chosen else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * kept, msg=name)


def test_a_parameter_that_took_no_part_is_left_alone():
    module = layers()
    module.unused = nn.Linear(6, 6)
    optimizer = built(module)
    before = module.unused.weight.detach().clone()
    moved = module.linear.weight.detach().clone()
    module(*inputs()).backward()
    optimizer.step()
    assert torch.equal(before, module.unused.weight)
    assert not torch.equal(moved, module.linear.weight)


def test_channels_last_weights_learn_as_contiguous_ones():
    def train(memory_format: torch.memory_format) -> dict[str, Tensor]:
        module = layers()
        for parameter in module.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=memory_format)
        optimizer = built(module)
        for _ in range(4):
            module(*inputs()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return module.state_dict()

    plain, last = train(torch.contiguous_format), train(torch.channels_last)
    for name, value in plain.items():
        torch.testing.assert_close(value, last[name], rtol=1e-3, atol=2e-4)


def settings(run_dir: Path, **changes: Any) -> TrainConfig:
    return dataclasses.replace(BASE, run_dir=run_dir, **changes)


def stored(run_dir: Path, step: int = 6) -> dict[str, Tensor]:
    folder = run_dir / "checkpoints" / checkpoints.folder_name(step)
    return {
        f"{part}: {name}": tensor
        for part in (checkpoints.WEIGHTS, checkpoints.EMA, checkpoints.OPTIMIZER)
        for name, tensor in load_file(folder / part).items()
    }


def test_a_resumed_run_has_the_bits_of_one_that_went_through(tmp_path):
    run_task(RegressorTask(), settings(tmp_path / "whole"))
    run_task(RegressorTask(), settings(tmp_path / "parts", stop_at=3))
    run_task(RegressorTask(), settings(tmp_path / "parts", resume=True))
    whole, parts = stored(tmp_path / "whole"), stored(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert any(".momentum." in name or ": momentum." in name for name in whole)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_checkpoint_of_another_optimizer_is_refused_both_ways(tmp_path):
    for first, then in (("muon", "adamw"), ("adamw", "muon")):
        run_task(RegressorTask(), settings(tmp_path / first, optimizer=first, stop_at=3))
        with pytest.raises(UserError, match=f"those of --optimizer {first}; go on with it"):
            run_task(RegressorTask(), settings(tmp_path / first, optimizer=then, resume=True))


def test_two_processes_learn_what_one_does(tmp_path):
    def train(_: int) -> None:
        run_task(RegressorTask(plain=True), settings(tmp_path / "two"))

    together(train, tmp_path / "logs", ACCELERATE_USE_CPU="true")
    run_task(RegressorTask(plain=True), settings(tmp_path / "one"))
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        worst = float((value - two[name]).abs().max() / value.abs().max().clamp(min=1e-12))
        assert worst <= 1e-4, (name, worst)


@pytest.mark.parametrize("matrices", [1, 2, 3, 5])
def test_processes_share_the_work_and_all_have_every_result(matrices, tmp_path):
    stacks = {
        (4, 9): torch.randn(matrices, 4, 9, generator=torch.Generator().manual_seed(4)),
        (6, 6): torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(5)),
    }

    def share(rank: int) -> None:
        torch.distributed.init_process_group("gloo")
        counts = {shape: len(stack) for shape, stack in stacks.items()}
        found = muon.orthogonalise_together(counts, lambda shape, rows: stacks[shape][list(rows)])
        for shape, stack in stacks.items():
            torch.testing.assert_close(torch.stack(found[shape]), muon.orthogonalise(stack))

    together(share, tmp_path)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_matrices_are_dealt_out_evenly_and_each_of_them_once(processes):
    counts = {(192, 192): 7, (16, 16): 5, (192, 1728): 3, (64, 32): 1}
    shares = muon.dealt(counts, processes)
    for shape, count in counts.items():
        assert sorted(k for share in shares for k in share.get(shape, ())) == list(range(count))
    loads = [sum(len(rows) * muon._products(s) for s, rows in one.items()) for one in shares]
    assert max(loads) - min(loads) <= max(map(muon._products, counts))


def test_many_matrices_that_are_taken_few_at_a_time_are_those_of_one_alone(monkeypatch):
    monkeypatch.setattr(muon, "_IN_CACHE", 2 * 6 * 9)
    matrices = torch.randn(5, 9, 6, generator=torch.Generator().manual_seed(6))
    alone = torch.cat([muon.orthogonalise(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(muon.orthogonalise(matrices), alone)
