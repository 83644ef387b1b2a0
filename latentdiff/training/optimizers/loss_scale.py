"""The dynamic loss scale of fp16 training, kept on the device.

Gradients smaller than 6e-8 vanish in fp16, so the loss is multiplied before the backward pass and
the gradients divided after it (Micikevicius et al. 2018, arXiv:1710.03740). The scale is as large
as goes without overflow: halved by one, doubled after many updates without.
"""

from __future__ import annotations

import torch
from torch import Tensor

INITIAL = 2.0**16
GROWTH_INTERVAL = 2000
"""Updates without overflow after which the scale is doubled; as torch.amp.GradScaler's."""
IN_A_ROW = 20
"""Overflows in a row that no scale explains: 2^16 has been halved to below 1 by then."""


class LossScale:
    """Every value is a scalar tensor on the device; nothing here waits for it."""

    def __init__(
        self,
        device: torch.device,
        *,
        initial: float = INITIAL,
        growth_interval: int = GROWTH_INTERVAL,
        in_a_row: int = IN_A_ROW,
    ) -> None:
        self.growth_interval, self.limit = growth_interval, in_a_row
        self.scale = torch.full((), initial, device=device)
        self.good, self.overflows, self.skipped = (
            torch.zeros((), dtype=torch.int64, device=device) for _ in range(3)
        )
        """Updates since the scale last changed; overflows in a row; updates left out in all."""

    @torch.no_grad()
    def update(self, overflow: Tensor) -> Tensor:
        """Take note of one update (bool scalar); whether it was one overflow too many."""
        self.good = torch.where(overflow, 0, self.good + 1)
        grown = self.good >= self.growth_interval
        factor = torch.where(overflow, 0.5, torch.where(grown, 2.0, 1.0))
        self.scale = (self.scale * factor).float()
        self.good = torch.where(grown, 0, self.good)
        self.overflows = torch.where(overflow, self.overflows + 1, 0)
        self.skipped = self.skipped + overflow
        return self.overflows >= self.limit

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by name."""
        names = ("scale", "good", "overflows", "skipped")
        return {name: getattr(self, name).detach().clone() for name in names}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put `state` back."""
        for name, value in state.items():
            mine: Tensor = getattr(self, name)
            setattr(self, name, value.to(mine.device, mine.dtype, copy=True))
