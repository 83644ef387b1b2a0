"""Ancestral sampling (DDPM, Ho et al. 2020, algorithm 2), on the whole schedule or a part of it."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.prediction import x_0_to_posterior_mean
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import unknown_name
from latentdiff.schedulers.base import Bounds, Grid, GridScheduler, required_noise, working
from latentdiff.schedulers.protocol import StepResult

Variance = Literal["fixed_small", "fixed_large", "zero"]
VARIANCES: tuple[Variance, ...] = get_args(Variance)


class DDPM(GridScheduler):
    """x_prev = μ̃(x_t, x̂_0) + σ_t·z (DDPM eq. 7, 11 and algorithm 2).

    variance: σ_t² is β̃_t ("fixed_small"), β_t ("fixed_large") or 0 ("zero"). On a sub-sequence
    β_t is the respaced 1 − ᾱ_t/ᾱ_prev. The last step adds no noise (algorithm 2, line 3).
    bounds: of x_0. Raises UserError for a combination that cannot be sampled.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        grid: Grid,
        *,
        variance: str = "fixed_small",
        prediction_type: str = "epsilon",
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__(schedule, grid, prediction_type=prediction_type, bounds=bounds)
        if variance not in VARIANCES:
            raise unknown_name("variance", variance, VARIANCES)
        self.variance = variance

    def sigma(self, step: Step) -> float:
        """σ_t of the step, 0 for the last one."""
        if self.variance == "zero" or step.t_prev < 0:
            return 0.0
        alpha_bar, alpha_bar_prev = self.levels(step)
        beta = 1.0 - alpha_bar / alpha_bar_prev
        if self.variance == "fixed_large":
            return math.sqrt(beta)
        return math.sqrt((1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * beta)

    def needs_noise(self, step: Step) -> bool:
        """Whether the step adds noise."""
        return self.sigma(step) > 0.0

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """One move from step.t to step.t_prev; (B, …) in, x's dtype out."""
        said, x_t = working(prediction, x)
        alpha_bar, alpha_bar_prev = self.levels(step)
        x_0 = self.bounds.apply(self._predicted_x_0(said, x_t, step))
        if alpha_bar_prev == alpha_bar:
            moved = x_t  # no way to go, as at t = 0 of a checkpoint whose last ᾱ is ᾱ_0
        else:
            moved = x_0_to_posterior_mean(x_0, x_t, alpha_bar, alpha_bar_prev)
        sigma = self.sigma(step)
        if sigma > 0.0:
            moved = torch.add(moved, required_noise(noise, x_t), alpha=sigma)
        return StepResult(x=moved.to(x.dtype), x_0=x_0.to(x.dtype))
