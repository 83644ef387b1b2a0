"""What DDPM and DDIM share: a schedule, a grid, and the clean data that a prediction implies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.diffusion import timesteps as grids
from latentdiff.diffusion.noise_schedule import NoiseSchedule, work_dtype
from latentdiff.diffusion.prediction import check_prediction_type, to_x_0
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which timesteps a walk visits.

    Either num_inference_steps, with spacing and steps_offset (`diffusion.timesteps.grid`), or
    timesteps: an explicit falling list.
    """

    num_inference_steps: int | None = None
    timesteps: Sequence[int] | None = None
    spacing: str = "leading"
    steps_offset: int = 0

    def __post_init__(self) -> None:
        if (self.num_inference_steps is None) == (self.timesteps is None):
            raise UserError("give either num_inference_steps or a list of timesteps, not both")

    def steps(self, num_train_timesteps: int) -> tuple[Step, ...]:
        """The steps on a schedule of so many timesteps, noisiest first."""
        T = num_train_timesteps
        if self.timesteps is not None:
            return grids.from_timesteps(self.timesteps, num_train_timesteps=T)
        assert self.num_inference_steps is not None
        return grids.grid(T, self.num_inference_steps, self.spacing, self.steps_offset)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far x_0 may go; without either, as far as it likes.

    clip: ±clip. quantile: instead, that quantile of |x_0| of each sample, kept within 1 … largest
    (Imagen, Saharia et al. 2022, section 2.3).
    """

    clip: float | None = None
    quantile: float | None = None
    largest: float = 1.0

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0.0:
            raise UserError(f"clip_sample_range must be above 0, found {self.clip}")
        if self.quantile is not None and not 0.0 < self.quantile <= 1.0:
            raise UserError(f"dynamic_thresholding_ratio must lie in (0, 1], found {self.quantile}")
        if self.quantile is not None and not self.largest >= 1.0:
            raise UserError(f"sample_max_value must be at least 1, found {self.largest}")

    @property
    def active(self) -> bool:
        """Whether x_0 is bounded at all."""
        return self.clip is not None or self.quantile is not None

    def apply(self, x_0: Tensor) -> Tensor:
        """x_0 (B, …) within the bounds."""
        if self.quantile is not None:
            return dynamic_threshold(x_0, self.quantile, self.largest)
        return x_0 if self.clip is None else x_0.clamp(-self.clip, self.clip)


class GridScheduler:
    """The grid and the x_0 of a variance-preserving sampler."""

    init_noise_sigma: float = 1.0

    def __init__(
        self,
        schedule: NoiseSchedule,
        grid: Grid,
        *,
        prediction_type: str = "epsilon",
        bounds: Bounds | None = None,
    ) -> None:
        self._grid = grid.steps(schedule.num_train_timesteps)
        self.schedule = schedule
        self.prediction_type: str = check_prediction_type(prediction_type)
        if prediction_type == "epsilon" and schedule.has_zero_terminal_snr:
            raise UserError(
                "prediction type 'epsilon' cannot be sampled under zero terminal SNR: there ε says "
                "nothing of x_0; use a checkpoint with 'v_prediction' or 'sample', or a schedule "
                "without rescale_betas_zero_snr"
            )
        self.bounds = bounds or Bounds()

    def grid(self) -> tuple[Step, ...]:
        """All steps, noisiest first."""
        return self._grid

    def scale_input(self, x: Tensor, step: Step) -> Tensor:
        """x itself: a variance-preserving sampler shows the network what it holds."""
        return x

    def signal_and_noise(self, step: Step) -> tuple[float, float]:
        """√ᾱ and √(1−ᾱ) at step.t (DDPM eq. 4)."""
        alpha_bar = self.schedule.alpha_bar_at(int(step.t))
        return math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar)

    def levels(self, step: Step) -> tuple[float, float]:
        """ᾱ at step.t and at step.t_prev, the latter looked up, not strided."""
        return self.schedule.alpha_bar_at(int(step.t)), self.schedule.alpha_bar_at(int(step.t_prev))

    def _predicted_x_0(self, prediction: Tensor, x: Tensor, step: Step) -> Tensor:
        """x_0 before any clipping, in x's dtype."""
        t = int(step.t)
        return to_x_0(
            prediction,
            x,
            self.schedule.alpha_bar_at(t),
            prediction_type=self.prediction_type,
            alpha_bar_prev=float(self.schedule.alpha_bar_prev[t]),
        )


def dynamic_threshold(x_0: Tensor, ratio: float, max_value: float) -> Tensor:
    """x_0 clamped to ±s and divided by s, s the `ratio` quantile of |x_0| of each sample.

    s is kept within 1 … max_value (Imagen, Saharia et al. 2022, section 2.3).
    """
    bound = torch.quantile(x_0.abs().flatten(1), ratio, dim=1).clamp(1.0, max_value)
    bound = bound.reshape(-1, *[1] * (x_0.ndim - 1))
    return x_0.clamp(-bound, bound) / bound


def working(prediction: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in the work dtype, after a look at their shapes."""
    if prediction.shape != x.shape:
        raise ValueError(
            f"the prediction has shape {tuple(prediction.shape)}, the sample {tuple(x.shape)}"
        )
    dtype = work_dtype(x.device)
    return prediction.to(device=x.device, dtype=dtype), x.to(dtype)


def required_noise(noise: Tensor | None, x: Tensor) -> Tensor:
    """The noise in x's dtype and place; ValueError when it is missing or of another shape."""
    if noise is None:
        raise ValueError("this step needs noise: draw it whenever needs_noise(step) is true")
    if noise.shape != x.shape:
        raise ValueError(f"the noise has shape {tuple(noise.shape)}, the sample {tuple(x.shape)}")
    return noise.to(device=x.device, dtype=x.dtype)
