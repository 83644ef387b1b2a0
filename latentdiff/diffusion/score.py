"""One network read as a score, and as the velocity of the probability flow.

With cos φ = √ᾱ and sin φ = √(1−ᾱ) a noised sample is x_φ = cos φ·x_0 + sin φ·ε:

  score     ∇log p_t(x) = −ε_θ/√(1−ᾱ_t)        (Song et al. 2021, "Score-based generative modeling")
  velocity  dx/dφ = v_θ = cos φ·ε_θ − sin φ·x̂_0  (Salimans & Ho 2022, appendix D; the ODE of Song et
            al. eq. 13 in the variable φ)

In φ the flow is bounded everywhere, at zero terminal SNR (φ = π/2) as well.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from latentdiff.diffusion.noise_schedule import NoiseSchedule, broadcast, work_dtype
from latentdiff.diffusion.prediction import (
    AlphaBar,
    check_prediction_type,
    eps_to_v,
    to_eps,
    to_x_0,
    x_0_to_v,
)


def eps_to_score(eps: Tensor, alpha_bar: AlphaBar) -> Tensor:
    """−ε/√(1−ᾱ), (B, …) in eps' dtype. Not defined at ᾱ = 1."""
    a = broadcast(alpha_bar, eps)
    return (-eps.to(work_dtype(eps.device)) * (1.0 - a).rsqrt()).to(eps.dtype)


def score_to_eps(score: Tensor, alpha_bar: AlphaBar) -> Tensor:
    """ε = −√(1−ᾱ)·score, (B, …) in score's dtype."""
    a = broadcast(alpha_bar, score)
    return (-score.to(work_dtype(score.device)) * (1.0 - a).sqrt()).to(score.dtype)


def to_score(
    prediction: Tensor,
    x_t: Tensor,
    alpha_bar: AlphaBar,
    *,
    prediction_type: str,
    alpha_bar_prev: AlphaBar | None = None,
) -> Tensor:
    """The score that a prediction of any kind implies; arguments as in `prediction.to_eps`."""
    eps = to_eps(
        prediction,
        x_t,
        alpha_bar,
        prediction_type=prediction_type,
        alpha_bar_prev=alpha_bar_prev,
    )
    return eps_to_score(eps, alpha_bar)


def to_v(
    prediction: Tensor,
    x_t: Tensor,
    alpha_bar: AlphaBar,
    *,
    prediction_type: str,
    alpha_bar_prev: AlphaBar | None = None,
) -> Tensor:
    """The velocity dx/dφ that a prediction of any kind implies; arguments as in `to_x_0`."""
    kind = check_prediction_type(prediction_type)
    if kind == "v_prediction":
        return prediction.to(x_t.dtype)
    if kind == "epsilon":
        return eps_to_v(prediction, x_t, alpha_bar)
    x_0 = to_x_0(
        prediction,
        x_t,
        alpha_bar,
        prediction_type=kind,
        alpha_bar_prev=alpha_bar_prev,
    )
    return x_0_to_v(x_0, x_t, alpha_bar)


def alpha_bar_to_angle(alpha_bar: float) -> float:
    """φ in [0, π/2] with cos φ = √ᾱ."""
    return math.atan2(math.sqrt(1.0 - alpha_bar), math.sqrt(alpha_bar))


def angle_to_alpha_bar(angle: float) -> float:
    """ᾱ = cos² φ."""
    return math.cos(angle) ** 2


def angles(schedule: NoiseSchedule) -> list[float]:
    """φ of every training timestep, rising."""
    return [alpha_bar_to_angle(float(a)) for a in schedule.alpha_bar]


def angle_to_timestep(angle: float, schedule: NoiseSchedule) -> float:
    """The timestep of an angle, linear between the training timesteps, within 0 … T−1."""
    known = angles(schedule)
    return float(np.interp(angle, known, np.arange(len(known), dtype=np.float64)))


def timestep_to_angle(t: float, schedule: NoiseSchedule) -> float:
    """`angle_to_timestep` the other way, for t in 0 … T−1."""
    known = angles(schedule)
    return float(np.interp(t, np.arange(len(known), dtype=np.float64), known))
