"""Averaged weights: an exponential moving average kept in float32 by one foreach kernel.

Karras et al. 2022 (arXiv:2206.00364) and most diffusion work sample from such an average. The
decay warms up as min(decay, (1 + n) / (10 + n)) so that a short run is not held at its start.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from latentdiff.training.optimizers.guarded_step import trained_parameters
from latentdiff.training.sharding import whole


class AveragedWeights:
    """A second copy of the trained parameters, drawn towards the first every few updates.

    decay is per update of the weights, so `every` does not change what is averaged over. device:
    where the copy lies; None is where the module is. Elsewhere costs a copy over the bus at each
    update, and saves the memory except while the average is in use.
    """

    def __init__(
        self,
        module: nn.Module,
        decay: float,
        *,
        every: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.decay, self.every = decay, every
        self._source = module
        # Frozen parameters are shared, not copied: the memo tells deepcopy they are done.
        frozen = {id(p): p for p in module.parameters() if not p.requires_grad}
        self.module = copy.deepcopy(module, frozen).eval().requires_grad_(False)
        names = trained_parameters(module)
        averaged = dict(self.module.named_parameters())
        self.parameters: dict[str, Tensor] = {name: averaged[name] for name in names}
        self._averaged = list(self.parameters.values())
        self.device = self._averaged[0].device if device is None else device
        self._move(self.device)
        self.follow(module)

    def follow(self, module: nn.Module) -> None:
        """Average this module's parameters; asked again once wrapping has made others of them."""
        self._source, self._current = module, list(trained_parameters(module).values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the current weights after the update that made step `step` (from 1).

        Asks for whole tensors, so under FSDP every process has to call it.
        """
        if step % self.every:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        weight = 1.0 - decay**self.every
        # Taken afresh: wrapping for several processes may rebind a parameter's storage.
        current: list[Tensor] = [
            whole(p.detach()).to(self.device, torch.float32) for p in self._current
        ]
        if decay == 0.0:
            torch._foreach_copy_(self._averaged, current)
        else:
            torch._foreach_lerp_(self._averaged, current, weight)

    @contextmanager
    def ready(self) -> Iterator[nn.Module]:
        """The averaged module for validation or export, on the module's device, in eval mode."""
        with torch.no_grad():
            self._move(next(iter(self._source.parameters())).device)
            for mine, theirs in zip(self.module.buffers(), self._source.buffers(), strict=True):
                mine.copy_(theirs)
        try:
            yield self.module.eval()
        finally:
            self._move(self.device)

    @torch.no_grad()
    def copied(self) -> tuple[nn.Module, dict[str, Tensor]]:
        """The averaged module as it is now, in eval mode on the CPU, and its trained parameters by
        name; what is frozen is shared. For whoever writes it while training goes on."""
        mine = {id(parameter) for parameter in self._averaged}
        frozen = [p for p in self.module.parameters() if id(p) not in mine]
        memo: dict[int, object] = {id(p): p for p in frozen}
        copies: dict[str, Tensor] = {}
        for name, averaged in self.parameters.items():
            made = nn.Parameter(averaged.detach().to("cpu", copy=True), requires_grad=False)
            memo[id(averaged)] = copies[name] = made
        for buffer, theirs in zip(self.module.buffers(), self._source.buffers(), strict=True):
            memo[id(buffer)] = theirs.detach().to("cpu", copy=True)
        return copy.deepcopy(self.module, memo), copies

    def _move(self, device: torch.device) -> None:
        # Parameter by parameter: those that are frozen are the source's own, and stay.
        for parameter in self._averaged:
            parameter.data = parameter.data.to(device, torch.float32)
