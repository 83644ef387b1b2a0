"""The forward process q, and its posterior (DDPM, Ho et al. 2020, section 2).

Tensors are (B, …); t is (B,) int64 in 0 … T−1. Combined in float64, returned in x's dtype.
"""

from __future__ import annotations

from torch import Tensor

from latentdiff.diffusion.noise_schedule import NoiseSchedule, work_dtype
from latentdiff.diffusion.prediction import x_0_to_posterior_mean


def q_sample(x_0: Tensor, t: Tensor, eps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """x_t = √ᾱ_t·x_0 + √(1−ᾱ_t)·ε, in one shot (DDPM eq. 4)."""
    alpha_bar = schedule.gather(schedule.alpha_bar, t, x_0)
    return _mix(alpha_bar, x_0, eps)


def q_step(x_prev: Tensor, t: Tensor, eps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """x_t = √(1−β_t)·x_{t−1} + √β_t·ε, one step (DDPM eq. 2)."""
    alpha = schedule.gather(schedule.alpha, t, x_prev)
    return _mix(alpha, x_prev, eps)


def posterior_mean(x_0: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Mean μ̃_t of q(x_{t−1} | x_t, x_0) (DDPM eq. 7); x_0 itself at t = 0."""
    return x_0_to_posterior_mean(
        x_0,
        x_t,
        schedule.gather(schedule.alpha_bar, t, x_t).reshape(-1),
        schedule.gather(schedule.alpha_bar_prev, t, x_t).reshape(-1),
    )


def posterior_variance(t: Tensor, schedule: NoiseSchedule, like: Tensor) -> Tensor:
    """Variance β̃_t of q(x_{t−1} | x_t, x_0) (DDPM eq. 7), (B, 1, …) float64; 0 at t = 0."""
    return schedule.gather(schedule.posterior_variance, t, like)


def _mix(kept: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    if x.shape != eps.shape:
        raise ValueError(f"shapes differ: {tuple(x.shape)} and {tuple(eps.shape)}")
    work = work_dtype(x.device)
    return (kept.sqrt() * x.to(work) + (1.0 - kept).sqrt() * eps.to(work)).to(x.dtype)
