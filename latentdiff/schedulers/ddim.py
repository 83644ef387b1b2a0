"""Implicit sampling and its inverse (DDIM, Song et al. 2021).

The paper writes α for what is ᾱ here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latentdiff.diffusion import timesteps as grids
from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.prediction import eps_to_x_0, to_eps, x_0_to_eps
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError
from latentdiff.schedulers.base import Bounds, Grid, GridScheduler, required_noise, working
from latentdiff.schedulers.protocol import StepResult


class DDIM(GridScheduler):
    """x_prev = √ᾱ_prev·x̂_0 + √(1−ᾱ_prev−σ²)·ε̂ + σ·z (DDIM eq. 12), σ = η·σ(1) (eq. 16).

    eta: 0 is deterministic, 1 has DDPM's β̃ variance; up to the largest value that keeps the root
    real on this grid (`largest_eta`), beyond which a UserError names it.
    sigma_hat: the σ̂ variant (DDIM section 5.1 and appendix D.3): the direction of η = 1 with noise
    of the larger std √(1−ᾱ_t/ᾱ_prev), none in the last step; eta must be 1.
    eps_from_clipped_x_0: where x_0 is clipped, derive ε̂ from it again (diffusers'
    `use_clipped_model_output`). bounds: of x_0.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        grid: Grid,
        *,
        eta: float = 0.0,
        sigma_hat: bool = False,
        prediction_type: str = "epsilon",
        bounds: Bounds | None = None,
        eps_from_clipped_x_0: bool = False,
    ) -> None:
        super().__init__(schedule, grid, prediction_type=prediction_type, bounds=bounds)
        largest = largest_eta(schedule, self.grid())
        if not 0.0 <= eta <= largest:
            shown = "inf" if math.isinf(largest) else f"{math.floor(largest * 1e6) / 1e6:.6f}"
            raise UserError(
                f"eta must lie in 0 … {shown} on this grid of {len(self.grid())} steps, found "
                f"{eta:g}: beyond, DDIM would take the root of a negative number"
            )
        if sigma_hat and eta != 1.0:
            raise UserError(f"the sigma_hat variant is defined for eta 1 alone, found {eta:g}")
        self.eta = eta
        self.sigma_hat = sigma_hat
        self.eps_from_clipped_x_0 = eps_from_clipped_x_0

    def noise_std(self, step: Step) -> float:
        """The standard deviation of the noise that the step adds."""
        if not self.sigma_hat:
            return self.eta * _sigma_1(*self.levels(step))
        if step.t_prev < 0:
            return 0.0
        alpha_bar, alpha_bar_prev = self.levels(step)
        return math.sqrt(1.0 - alpha_bar / alpha_bar_prev)

    def needs_noise(self, step: Step) -> bool:
        """Whether the step adds noise."""
        return self.noise_std(step) > 0.0

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """One move from step.t to step.t_prev; (B, …) in, x's dtype out."""
        said, x_t = working(prediction, x)
        alpha_bar, alpha_bar_prev = self.levels(step)
        x_0 = self.bounds.apply(self._predicted_x_0(said, x_t, step))
        if self.bounds.active and self.eps_from_clipped_x_0:
            eps = x_0_to_eps(x_0, x_t, alpha_bar)
        else:
            eps = to_eps(
                said,
                x_t,
                alpha_bar,
                prediction_type=self.prediction_type,
                alpha_bar_prev=float(self.schedule.alpha_bar_prev[int(step.t)]),
            )
        sigma = self.eta * _sigma_1(alpha_bar, alpha_bar_prev)
        direction = math.sqrt(max(1.0 - alpha_bar_prev - sigma**2, 0.0))  # rounding at largest η
        moved = math.sqrt(alpha_bar_prev) * x_0 + direction * eps
        std = self.noise_std(step)
        if std > 0.0:
            moved = torch.add(moved, required_noise(noise, x_t), alpha=std)
        return StepResult(x=moved.to(x.dtype), x_0=x_0.to(x.dtype))


class DDIMInverse(GridScheduler):
    """The deterministic walk backwards, from data to noise, over the same pairs.

    DDIM's η = 0 step is a discretised ODE (DDIM eq. 13, 14), so it can be walked the other way:
    from t_prev to t with the network asked at t, once, about the sample at t_prev. That answer is
    read at level t, as the network meant it, so ε-, v- and x_0-prediction walk the same path.
    `grid()` gives the forward pairs cleanest first; start from clean data.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        grid: Grid,
        *,
        prediction_type: str = "epsilon",
    ) -> None:
        super().__init__(schedule, grid, prediction_type=prediction_type)
        self._grid = grids.reverse(self._grid)

    def needs_noise(self, step: Step) -> bool:
        """Never: the walk is deterministic."""
        return False

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """One move from step.t_prev up to step.t; (B, …) in, x's dtype out."""
        said, x_prev = working(prediction, x)
        alpha_bar, alpha_bar_prev = self.levels(step)
        eps = to_eps(
            said,
            x_prev,
            alpha_bar,
            prediction_type=self.prediction_type,
            alpha_bar_prev=float(self.schedule.alpha_bar_prev[int(step.t)]),
        )
        x_0 = eps_to_x_0(eps, x_prev, alpha_bar_prev)
        moved = math.sqrt(alpha_bar) * x_0 + math.sqrt(1.0 - alpha_bar) * eps
        return StepResult(x=moved.to(x.dtype), x_0=x_0.to(x.dtype))


def largest_eta(schedule: NoiseSchedule, steps: Sequence[Step]) -> float:
    """The largest η for which 1 − ᾱ_prev − η²σ(1)² ≥ 0 in every step (DDIM eq. 12, 16).

    With σ(1)² = (1−ᾱ_prev)/(1−ᾱ_t)·(1−ᾱ_t/ᾱ_prev) that is √((1−ᾱ_t)/(1−ᾱ_t/ᾱ_prev)); a step
    to clean data sets no bound.
    """
    largest = math.inf
    for step in steps:
        alpha_bar = schedule.alpha_bar_at(int(step.t))
        alpha_bar_prev = schedule.alpha_bar_at(int(step.t_prev))
        if _sigma_1(alpha_bar, alpha_bar_prev) > 0.0:
            bound = math.sqrt((1.0 - alpha_bar) / (1.0 - alpha_bar / alpha_bar_prev))
            largest = min(largest, bound)
    return largest


def _sigma_1(alpha_bar: float, alpha_bar_prev: float) -> float:
    """σ of η = 1 (DDIM eq. 16)."""
    if alpha_bar_prev == 1.0 or alpha_bar == alpha_bar_prev:
        return 0.0
    return math.sqrt(
        (1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_prev)
    )
