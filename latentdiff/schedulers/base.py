"""What DDPM and DDIM share: a schedule, a grid, and the clean data that a prediction implies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentdiff.diffusion import timesteps as grids
from latentdiff.diffusion.noise_schedule import NoiseSchedule, work_dtype
from latentdiff.diffusion.prediction import check_prediction_type, to_x_0
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError


class GridScheduler:
    """The grid and the x_0 of a variance-preserving sampler.

    Exactly one of num_inference_steps (with spacing and steps_offset) and timesteps (an explicit
    falling list) is given. clip_sample bounds x_0 to ±clip_sample_range; thresholding bounds it to
    a percentile of itself instead (Imagen, Saharia et al. 2022, section 2.3).
    """

    init_noise_sigma: float = 1.0

    def __init__(
        self,
        schedule: NoiseSchedule,
        *,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        spacing: str = "leading",
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
    ) -> None:
        T = schedule.num_train_timesteps
        if (num_inference_steps is None) == (timesteps is None):
            raise UserError("give either num_inference_steps or a list of timesteps, not both")
        if timesteps is not None:
            self._grid = grids.from_timesteps(timesteps, num_train_timesteps=T)
        else:
            assert num_inference_steps is not None
            self._grid = grids.grid(T, num_inference_steps, spacing, steps_offset)
        self.schedule = schedule
        self.prediction_type: str = check_prediction_type(prediction_type)
        if prediction_type == "epsilon" and schedule.has_zero_terminal_snr:
            raise UserError(
                "prediction type 'epsilon' cannot be sampled under zero terminal SNR: there ε says "
                "nothing of x_0; use a checkpoint with 'v_prediction' or 'sample', or a schedule "
                "without rescale_betas_zero_snr"
            )
        if clip_sample and not clip_sample_range > 0.0:
            raise UserError(f"clip_sample_range must be above 0, found {clip_sample_range}")
        if thresholding and not 0.0 < dynamic_thresholding_ratio <= 1.0:
            raise UserError(
                f"dynamic_thresholding_ratio must lie in (0, 1], found {dynamic_thresholding_ratio}"
            )
        if thresholding and not sample_max_value >= 1.0:
            raise UserError(f"sample_max_value must be at least 1, found {sample_max_value}")
        self.clip_range = clip_sample_range if clip_sample and not thresholding else None
        self.threshold_ratio = dynamic_thresholding_ratio if thresholding else None
        self.threshold_max = sample_max_value

    def grid(self) -> tuple[Step, ...]:
        """All steps, noisiest first."""
        return self._grid

    def scale_input(self, x: Tensor, step: Step) -> Tensor:
        """x itself: a variance-preserving sampler shows the network what it holds."""
        return x

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

    def _bounded(self, x_0: Tensor) -> Tensor:
        """x_0 within the bounds that the checkpoint's config asks for."""
        if self.clip_range is not None:
            return x_0.clamp(-self.clip_range, self.clip_range)
        if self.threshold_ratio is not None:
            return dynamic_threshold(x_0, self.threshold_ratio, self.threshold_max)
        return x_0

    @property
    def _bounds(self) -> bool:
        return self.clip_range is not None or self.threshold_ratio is not None


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
