"""Averaged weights: an exponential moving average kept in float32 by one foreach kernel.

Karras et al. 2022 (arXiv:2206.00364) and most diffusion work sample from such an average. The
decay warms up as min(decay, (1 + n) / (10 + n)) so that a short run is not held at its start.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from latentdiff.training.optim import trained_parameters


class AveragedWeights:
    """A second copy of the trained parameters, drawn towards the first after every update."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._source = module
        # Frozen parameters are shared, not copied: the memo tells deepcopy they are done.
        frozen = {id(p): p for p in module.parameters() if not p.requires_grad}
        self.module = copy.deepcopy(module, frozen).eval().requires_grad_(False)
        names = trained_parameters(module)
        averaged = dict(self.module.named_parameters())
        self.parameters: dict[str, Tensor] = {name: averaged[name] for name in names}
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
        self._averaged = list(self.parameters.values())
        self._current = list(names.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the current weights after the update that made step `step` (from 1)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        # Taken afresh: wrapping for several processes may rebind a parameter's storage.
        current: list[Tensor] = [p.detach().float() for p in self._current]
        if self.decay == 0.0:
            torch._foreach_copy_(self._averaged, current)
        else:
            torch._foreach_lerp_(self._averaged, current, weight)

    @torch.no_grad()
    def ready(self) -> nn.Module:
        """The averaged module for validation or export, with the current buffers."""
        for mine, theirs in zip(self.module.buffers(), self._source.buffers(), strict=True):
            mine.copy_(theirs)
        return self.module.eval()
