"""Annealed Langevin dynamics (NCSN: Song & Ermon 2019, algorithm 1) with a DDPM's network.

NCSN's samples are x̃ = x_0 + σ·ε; a DDPM's are x = √ᾱ·x̃ with σ² = (1−ᾱ)/ᾱ. NCSN's step of size
α_i = ϵ·σ_i²/σ_L², x̃ + (α_i/2)·s̃ + √α_i·z, is here, with r = α_i/σ_i² the same on every level,

  x − (r/2)·√(1−ᾱ)·ε_θ + √r·√(1−ᾱ)·z
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError
from latentdiff.schedulers.base import required_noise, working
from latentdiff.schedulers.protocol import StepResult
from latentdiff.schedulers.scores.score_sampler import ScoreSampler, numbered


class AnnealedLangevin(ScoreSampler):
    """`steps_per_level` Langevin steps at each level of a grid, the noisiest first.

    step_size: r, a level's step in units of its σ²; on Gaussian data the variance at a level ends
    about r/4 too large where σ rules, of first order in r. Between levels x̃ stays as it is (x is
    rescaled). A last call of the network removes the noise that is left (Jolicoeur-Martineau et
    al. 2020). n levels take n·steps_per_level + 1 calls; many levels and steps are needed.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        steps: Sequence[Step],
        *,
        prediction_type: str = "epsilon",
        steps_per_level: int = 5,
        step_size: float = 0.5,
    ) -> None:
        if steps_per_level < 1:
            raise UserError(f"steps_per_level must be at least 1, found {steps_per_level}")
        if not 0.0 < step_size < 4.0:
            raise UserError(
                f"step_size must lie in (0, 4), found {step_size:g}: from 4 on the steps diverge"
            )
        pairs: list[tuple[int | float, int | float]] = []
        for step in steps:
            pairs += [(step.t, step.t)] * (steps_per_level - 1)
            pairs += [(step.t, step.t_prev)] if step.t_prev >= 0 else [(step.t, step.t)]
        pairs.append((steps[-1].t, -1))
        super().__init__(schedule, numbered(pairs), prediction_type=prediction_type)
        self.step_size = step_size

    def needs_noise(self, step: Step) -> bool:
        """In every step but the last, which only denoises."""
        return step.t_prev >= 0

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """One Langevin step at step.t, then the way to step.t_prev; (B, …) in, x's dtype out."""
        said, x_t = working(prediction, x)
        t = int(step.t)
        x_0 = self._x_0(said, x_t, t)
        if step.t_prev < 0:
            return StepResult(x=x_0.to(x.dtype), x_0=x_0.to(x.dtype))
        alpha_bar, alpha_bar_prev = self.levels(step)
        spread = math.sqrt(1.0 - alpha_bar)
        moved = x_t - 0.5 * self.step_size * spread * self._eps(said, x_t, t)
        moved = torch.add(
            moved, required_noise(noise, x_t), alpha=math.sqrt(self.step_size) * spread
        )
        if alpha_bar > 0.0:  # at ᾱ = 0 σ is infinite, and x is noise alone at any scale
            moved = moved * math.sqrt(alpha_bar_prev / alpha_bar)
        return StepResult(x=moved.to(x.dtype), x_0=x_0.to(x.dtype))
