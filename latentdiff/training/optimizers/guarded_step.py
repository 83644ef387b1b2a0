"""The optimizers, and an update that a non-finite number cannot pass.

The guard never asks the device a question: it keeps a flag beside the gradients, and the fused
kernel leaves weights and moments alone when the flag is set. Once set the flag stays set, so the
weights remain those of the last good step until the host reads the flag and stops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latentdiff.errors import UserError
from latentdiff.training.optimizers.loss_scale import LossScale
from latentdiff.training.optimizers.muon import Muon
from latentdiff.training.sharding import is_sharded, local

# Of the fused kernel's arguments: it divides gradients by grad_scale, and does nothing at all when
# found_inf is 1 (torch/optim/adamw.py; the pair exists for torch.amp.GradScaler).
_FUSED = ("grad_scale", "found_inf")


class NonFiniteError(UserError):
    """A loss or gradient was not finite; the weights are still those of the step before."""


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require grad, by name; a shared one appears once."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def build_optimizer(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    kind: str = "adamw",
    muon_learning_rate: float = 0.015,
    muon_weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); biases, norms and scalars are not decayed.

    kind: "adamw", fused, or "adamw8bit" of bitsandbytes, whose moments take 2 bytes a weight
    instead of 8 (Dettmers et al. 2022, arXiv:2110.02861); UserError when that is not installed; or
    "muon", which takes `muon_learning_rate` and `muon_weight_decay` for the matrices.
    """
    named = trained_parameters(module)
    if not named:
        raise UserError("nothing to train: no parameter of the module requires grad")
    odd = [name for name, p in named.items() if p.dtype != torch.float32]
    assert not odd, f"trained weights are float32 here; {odd[0]} is {named[odd[0]].dtype}"
    if kind == "muon":
        embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
        return Muon(
            named,
            embeddings=embeddings,
            learning_rate=learning_rate,
            matrix_rate=muon_learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            matrix_decay=muon_weight_decay,
        )
    groups = [
        {"params": [p for p in named.values() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in named.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    assert kind == "adamw8bit", kind
    optimizer: torch.optim.Optimizer = _adamw8bit()(groups, lr=learning_rate, betas=betas)
    return optimizer


def optimizer_kind(optimizer: torch.optim.Optimizer) -> str:
    """The name under which `build_optimizer` makes this optimizer."""
    if isinstance(optimizer, Muon):
        return "muon"
    return "adamw" if isinstance(optimizer, torch.optim.AdamW) else "adamw8bit"


def _adamw8bit() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError(
            "optimizer adamw8bit needs the package bitsandbytes: pip install bitsandbytes, "
            "or leave --optimizer at adamw"
        ) from None
    return AdamW8bit


@torch.no_grad()
def allocate(optimizer: torch.optim.Optimizer) -> None:
    """Make AdamW's moments now, so that the first validation meets the memory of every later one.

    An update that the fused kernel is told to leave out; afterwards moments and step are 0.
    """
    if not isinstance(optimizer, torch.optim.AdamW):
        return  # it made them when it was built, or has no guard that leaves an update out
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    made: Any = optimizer
    made.found_inf = torch.ones((), device=local(parameters[0]).device)
    made.step()
    made.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Trouble:
    """The first non-finite step, as the guard kept it."""

    step: int
    loss: float
    parameters: tuple[str, ...]
    """Names of the parameters with a non-finite gradient; empty when only the loss was."""
    overflows: int = 0
    """Under fp16: how many updates in a row were left out, this one included."""


class GuardedStep:
    """Clip by global norm and update, unless something is not finite.

    Tensors stay on the device: the sticky flag is read by the host only in `trouble`. With a loss
    scale, gradients that overflow while the loss is finite are left out, and make a smaller scale;
    only many in a row set the flag.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        module: nn.Module,
        *,
        grad_clip: float,
        loss_scale: LossScale | None = None,
    ) -> None:
        named = trained_parameters(module)
        self.names, self.parameters = tuple(named), tuple(named.values())
        # Any: found_inf and grad_scale are attributes that only the fused step looks for.
        self.optimizer: Any = optimizer
        self.fused = isinstance(optimizer, torch.optim.AdamW | Muon)
        self.grad_clip, self.loss_scale = grad_clip, loss_scale
        self.sharded = is_sharded(module)
        device = local(self.parameters[0]).device
        self.bad = torch.zeros((), device=device)  # 1.0 once something was not finite
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.bad_loss = torch.zeros((), device=device)
        self.bad_norms = torch.zeros(len(self.parameters), device=device)

    @torch.no_grad()
    def __call__(self, loss: Tensor, step: int, learning_rate: float) -> Tensor:
        """Update once from the gradients that stand on the parameters, then clear them.

        `loss` is the step's mean loss, unscaled (scalar, on the device, the same on every process).
        Returns the global gradient norm before clipping, a scalar on the device.
        """
        norms = self._norms()
        scale = None if self.loss_scale is None else self.loss_scale.scale.clone()
        if scale is not None:
            norms = norms / scale
        norm: Tensor = torch.linalg.vector_norm(norms)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        failed = ~finite
        if self.loss_scale is not None:
            overflow = torch.isfinite(loss) & ~torch.isfinite(norm)
            too_many = self.loss_scale.update(overflow)
            failed = ~torch.isfinite(loss) | too_many
        self._remember(failed, loss, norms, step)
        leave_out = torch.maximum(self.bad, (~finite).float())
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("rate_factor", 1.0)
        divisor = scale
        if self.grad_clip:
            clip = (norm / self.grad_clip).clamp(min=1.0)
            clip = torch.where(finite, clip, torch.ones_like(clip))
            divisor = clip if divisor is None else divisor * clip
        self._update(divisor, leave_out)
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _norms(self) -> Tensor:
        """The gradients' norms, one a parameter, float32, of the whole tensors."""
        missing = [n for n, p in zip(self.names, self.parameters, strict=True) if p.grad is None]
        if missing:
            raise AssertionError(f"no gradient reached {len(missing)} parameters: {missing[:3]}")
        grads = [local(p.grad) for p in self.parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(grads)).float()
        if self.sharded:
            squares = norms.square()
            torch.distributed.all_reduce(squares)
            norms = squares.sqrt()
        return norms

    def _remember(self, failed: Tensor, loss: Tensor, norms: Tensor, step: int) -> None:
        newly = failed & (self.bad == 0)
        self.bad_step = torch.where(newly, torch.full_like(self.bad_step, step), self.bad_step)
        self.bad_loss = torch.where(newly, loss.float(), self.bad_loss)
        self.bad_norms = torch.where(newly, norms, self.bad_norms)
        self.bad = torch.maximum(self.bad, failed.float())

    def _update(self, divisor: Tensor | None, leave_out: Tensor) -> None:
        if self.fused:
            self.optimizer.found_inf = leave_out
            if divisor is not None:
                self.optimizer.grad_scale = divisor
            self.optimizer.step()
        elif float(leave_out) == 0.0:  # a kernel without a guard: the host has to ask
            if divisor is not None:
                grads = [p.grad for p in self.parameters if p.grad is not None]
                torch._foreach_div_(grads, divisor)
            self.optimizer.step()

    def trouble(self) -> Trouble | None:
        """What went wrong first, or None; waits for the device."""
        if float(self.bad) == 0:
            return None
        finite = torch.isfinite(self.bad_norms).tolist()
        names = tuple(n for n, ok in zip(self.names, finite, strict=True) if not ok)
        loss = float(self.bad_loss)
        overflowed = self.loss_scale is not None and math.isfinite(loss)
        return Trouble(
            step=int(self.bad_step),
            loss=loss,
            parameters=names,
            overflows=self.loss_scale.limit if self.loss_scale and overflowed else 0,
        )


def describe(trouble: Trouble, positions: Sequence[int]) -> str:
    """One line: which step, which samples, which module."""
    if trouble.parameters:
        first = trouble.parameters[0]
        module = first.rpartition(".")[0] or first
        where = (
            f"gradients of {len(trouble.parameters)} parameters are not finite, the first is "
            f"{first} in module {module}"
        )
        if trouble.overflows:
            where += f", {trouble.overflows} updates in a row and with ever smaller loss scales"
    else:
        where = "all gradients are finite, the loss is not"
    return (
        f"step {trouble.step}, batch positions {positions[0]}…{positions[-1]}: "
        f"loss {trouble.loss}; {where}. No update was made and nothing was overwritten; "
        "lower the learning rate or look at that batch; --resume goes on from the last checkpoint, "
        "if there is one"
    )
