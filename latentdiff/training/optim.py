"""AdamW, and an update that a non-finite number cannot pass.

The guard never asks the device a question: it keeps a flag beside the gradients, and the fused
kernel leaves weights and moments alone when the flag is set. Once set the flag stays set, so the
weights remain those of the last good step until the host reads the flag and stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latentdiff.errors import UserError


class NonFiniteError(UserError):
    """A loss or gradient was not finite; the weights are still those of the step before."""


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require grad, by name; a shared one appears once."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def build_optimizer(
    module: nn.Module, *, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov & Hutter 2019); biases, norms and scalars are not decayed."""
    parameters = list(trained_parameters(module).values())
    if not parameters:
        raise UserError("nothing to train: no parameter of the module requires grad")
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


@dataclass(frozen=True)
class Trouble:
    """The first non-finite step, as the guard kept it."""

    step: int
    loss: float
    parameters: tuple[str, ...]
    """Names of the parameters with a non-finite gradient; empty when only the loss was."""


class GuardedStep:
    """Clip by global norm and update, unless something is not finite.

    Tensors stay on the device: `loss_sum`, `norm_sum` and the sticky flag are read by the host
    only in `read` and `trouble`.
    """

    def __init__(
        self, optimizer: torch.optim.AdamW, module: nn.Module, *, grad_clip: float
    ) -> None:
        named = trained_parameters(module)
        self.names, self.parameters = tuple(named), tuple(named.values())
        # Any: found_inf and grad_scale are attributes that only the fused step looks for.
        self.optimizer: Any = optimizer
        self.grad_clip = grad_clip
        device = self.parameters[0].device
        self.bad = torch.zeros((), device=device)  # 1.0 once something was not finite
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.bad_loss = torch.zeros((), device=device)
        self.bad_norms = torch.zeros(len(self.parameters), device=device)

    def __call__(self, loss: Tensor, step: int, learning_rate: float) -> Tensor:
        """Update once from the gradients that stand on the parameters, then clear them.

        `loss` is the step's mean loss (scalar, on the device, the same on every process).
        Returns the global gradient norm before clipping, a scalar on the device.
        """
        grads = self._gradients()
        norms = torch.stack(torch._foreach_norm(grads)).float()
        norm: Tensor = torch.linalg.vector_norm(norms)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        newly = ~finite & (self.bad == 0)
        self.bad_step = torch.where(newly, torch.full_like(self.bad_step, step), self.bad_step)
        self.bad_loss = torch.where(newly, loss.float(), self.bad_loss)
        self.bad_norms = torch.where(newly, norms, self.bad_norms)
        self.bad = torch.maximum(self.bad, (~finite).float())
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        # The fused kernel divides gradients by grad_scale, and does nothing when found_inf is 1
        # (torch/optim/adamw.py; the pair exists for torch.amp.GradScaler).
        self.optimizer.found_inf = self.bad
        if self.grad_clip:
            scale = (norm / self.grad_clip).clamp(min=1.0)
            self.optimizer.grad_scale = torch.where(finite, scale, torch.ones_like(scale))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _gradients(self) -> list[Tensor]:
        missing = [n for n, p in zip(self.names, self.parameters, strict=True) if p.grad is None]
        if missing:
            raise AssertionError(f"no gradient reached {len(missing)} parameters: {missing[:3]}")
        return [p.grad for p in self.parameters if p.grad is not None]

    def trouble(self) -> Trouble | None:
        """What went wrong first, or None; waits for the device."""
        if float(self.bad) == 0:
            return None
        finite = torch.isfinite(self.bad_norms).tolist()
        names = tuple(n for n, ok in zip(self.names, finite, strict=True) if not ok)
        return Trouble(step=int(self.bad_step), loss=float(self.bad_loss), parameters=names)


def describe(trouble: Trouble, positions: Sequence[int]) -> str:
    """One line: which step, which samples, which module."""
    if trouble.parameters:
        first = trouble.parameters[0]
        module = first.rpartition(".")[0] or first
        where = (
            f"gradients of {len(trouble.parameters)} parameters are not finite, the first is "
            f"{first} in module {module}"
        )
    else:
        where = "all gradients are finite, the loss is not"
    return (
        f"step {trouble.step}, batch positions {positions[0]}…{positions[-1]}: "
        f"loss {trouble.loss}; {where}. No update was made and nothing was overwritten; "
        "lower the learning rate or look at that batch, then --resume"
    )
