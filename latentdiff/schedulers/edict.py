"""Exact inversion by coupled samples (EDICT, Wallace et al. 2023, "Exact diffusion inversion via
coupled transformations").

The sample is two side by side, x and y, (B, 2C, h, w); a DDIM step moves one of them by what the
network says of the other, so both directions are the same affine map and its inverse, whatever the
network is. A step is two entries of the grid: the network is shown y, then x.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from latentdiff.diffusion import timesteps as grids
from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.prediction import eps_to_x_0, to_eps
from latentdiff.diffusion.timesteps import Step
from latentdiff.schedulers.base import Grid, GridScheduler
from latentdiff.schedulers.protocol import StepResult

MIXING = 0.93
"""p, how much of itself each keeps when the two are drawn together again (section 4.2)."""


class _Coupled(GridScheduler):
    """What both directions share: the doubled grid, and which half the network is shown."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        grid: Grid,
        *,
        prediction_type: str = "epsilon",
        mixing: float = MIXING,
    ) -> None:
        super().__init__(schedule, grid, prediction_type=prediction_type)
        self.mixing = mixing
        self.order = 2
        pairs = (s for s in self._grid for _ in range(2))
        self._grid = tuple(dataclasses.replace(s, index=k) for k, s in enumerate(pairs))

    def needs_noise(self, step: Step) -> bool:
        """Never: both walks are deterministic."""
        return False

    def _parts(self, prediction: Tensor, x: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """The two samples and ε as the network meant it, float64 where the device has it."""
        shown = self.scale_input(x, step)
        alpha_bar, _ = self.levels(step)
        work = torch.float32 if x.device.type == "mps" else torch.float64
        eps = to_eps(
            prediction.to(device=x.device, dtype=work),
            shown.to(work),
            alpha_bar,
            prediction_type=self.prediction_type,
            alpha_bar_prev=float(self.schedule.alpha_bar_prev[int(step.t)]),
        )
        first, second = x.to(work).chunk(2, dim=1)
        return first, second, eps

    def _factors(self, step: Step) -> tuple[float, float]:
        """a, b of x_prev = a·x + b·ε (DDIM eq. 12 at η = 0)."""
        alpha_bar, alpha_bar_prev = self.levels(step)
        a = math.sqrt(alpha_bar_prev / alpha_bar)
        return a, math.sqrt(1.0 - alpha_bar_prev) - a * math.sqrt(1.0 - alpha_bar)

    def _result(self, x: Tensor, y: Tensor, clean: Tensor, like: Tensor) -> StepResult:
        return StepResult(x=torch.cat([x, y], dim=1).to(like.dtype), x_0=clean.to(like.dtype))


class Edict(_Coupled):
    """From noise to data: start from x and y alike, or from what `EdictInverse` gave."""

    def scale_input(self, x: Tensor, step: Step) -> Tensor:
        """(B, C, h, w): y in a step's first half, x in its second."""
        first, second = x.chunk(2, dim=1)
        return second if step.index % 2 == 0 else first

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """Half a move from step.t to step.t_prev (eq. 14); (B, 2C, …) in and out, x_0 (B, C, …)."""
        one, two, eps = self._parts(prediction, x, step)
        a, b = self._factors(step)
        clean = eps_to_x_0(eps, self.scale_input(x, step).to(eps.dtype), self.levels(step)[0])
        if step.index % 2 == 0:
            return self._result(a * one + b * eps, two, clean, x)
        two = a * two + b * eps
        one = self.mixing * one + (1.0 - self.mixing) * two
        two = self.mixing * two + (1.0 - self.mixing) * one
        return self._result(one, two, clean, x)


class EdictInverse(_Coupled):
    """From data to noise: start from the picture's latents, twice."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        grid: Grid,
        *,
        prediction_type: str = "epsilon",
        mixing: float = MIXING,
    ) -> None:
        super().__init__(schedule, grid, prediction_type=prediction_type, mixing=mixing)
        self._grid = grids.reverse(self._grid)

    def scale_input(self, x: Tensor, step: Step) -> Tensor:
        """(B, C, h, w): in a step's first half x, with the mixing taken back; then y."""
        first, second = x.chunk(2, dim=1)
        return self._unmixed(first, second)[0] if step.index % 2 == 0 else second

    def _unmixed(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        work = torch.float32 if one.device.type == "mps" else torch.float64
        x, y = one.to(work), two.to(work)
        y = (y - (1.0 - self.mixing) * x) / self.mixing
        x = (x - (1.0 - self.mixing) * y) / self.mixing
        return x.to(one.dtype), y.to(two.dtype)

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """Half a move from step.t_prev up to step.t (eq. 15)."""
        one, two, eps = self._parts(prediction, x, step)
        a, b = self._factors(step)
        clean = eps_to_x_0(eps, self.scale_input(x, step).to(eps.dtype), self.levels(step)[0])
        if step.index % 2 == 0:
            one, two = self._unmixed(one, two)
            return self._result(one, (two - b * eps) / a, clean, x)
        return self._result((one - b * eps) / a, two, clean, x)
