"""What a network may predict, and the way from each to each.

With a = ᾱ_t:  x_t = √a·x_0 + √(1−a)·ε  (DDPM eq. 4),  v = √a·ε − √(1−a)·x_0  (Salimans & Ho
2022, section 4 and appendix D),  and the posterior mean μ̃_t (DDPM eq. 7), the point that divides
the line between x_t and x_0.

Every function takes tensors (B, …) of one shape, and ᾱ as a number, a () or a (B,) tensor; it
combines in float64 and returns x_t's dtype. Names are diffusers' names for the kinds.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from latentdiff.diffusion.noise_schedule import broadcast, work_dtype
from latentdiff.errors import unknown_name

PredictionType = Literal["epsilon", "sample", "v_prediction", "posterior_mean"]
PREDICTION_TYPES: tuple[PredictionType, ...] = get_args(PredictionType)
AlphaBar = Tensor | float


def check_prediction_type(name: str) -> PredictionType:
    """The name itself, if it is one of PREDICTION_TYPES; otherwise a UserError."""
    for known in PREDICTION_TYPES:
        if name == known:
            return known
    raise unknown_name("prediction type", name, PREDICTION_TYPES)


def eps_to_x_0(eps: Tensor, x_t: Tensor, alpha_bar: AlphaBar) -> Tensor:
    """x_0 = (x_t − √(1−ᾱ)·ε) / √ᾱ (DDPM eq. 15). Not defined at ᾱ = 0."""
    a = broadcast(alpha_bar, x_t)
    return _combine(a.rsqrt(), x_t, -((1.0 - a) / a).sqrt(), eps)


def x_0_to_eps(x_0: Tensor, x_t: Tensor, alpha_bar: AlphaBar) -> Tensor:
    """ε = (x_t − √ᾱ·x_0) / √(1−ᾱ) (DDPM eq. 4 solved for ε). Not defined at ᾱ = 1."""
    a = broadcast(alpha_bar, x_t)
    return _combine((1.0 - a).rsqrt(), x_t, -(a / (1.0 - a)).sqrt(), x_0)


def v_to_x_0(v: Tensor, x_t: Tensor, alpha_bar: AlphaBar) -> Tensor:
    """x_0 = √ᾱ·x_t − √(1−ᾱ)·v (Salimans & Ho 2022, appendix D)."""
    a = broadcast(alpha_bar, x_t)
    return _combine(a.sqrt(), x_t, -(1.0 - a).sqrt(), v)


def v_to_eps(v: Tensor, x_t: Tensor, alpha_bar: AlphaBar) -> Tensor:
    """ε = √(1−ᾱ)·x_t + √ᾱ·v (Salimans & Ho 2022, appendix D)."""
    a = broadcast(alpha_bar, x_t)
    return _combine((1.0 - a).sqrt(), x_t, a.sqrt(), v)


def x_0_and_eps_to_v(x_0: Tensor, eps: Tensor, alpha_bar: AlphaBar) -> Tensor:
    """v = √ᾱ·ε − √(1−ᾱ)·x_0 (Salimans & Ho 2022, section 4). Returns x_0's dtype."""
    a = broadcast(alpha_bar, x_0)
    return _combine(-(1.0 - a).sqrt(), x_0, a.sqrt(), eps)


def x_0_to_v(x_0: Tensor, x_t: Tensor, alpha_bar: AlphaBar) -> Tensor:
    """v = (√ᾱ·x_t − x_0) / √(1−ᾱ): v_to_x_0 solved for v. Not defined at ᾱ = 1."""
    a = broadcast(alpha_bar, x_t)
    return _combine((a / (1.0 - a)).sqrt(), x_t, -(1.0 - a).rsqrt(), x_0)


def eps_to_v(eps: Tensor, x_t: Tensor, alpha_bar: AlphaBar) -> Tensor:
    """v = (ε − √(1−ᾱ)·x_t) / √ᾱ: v_to_eps solved for v. Not defined at ᾱ = 0."""
    a = broadcast(alpha_bar, x_t)
    return _combine(-((1.0 - a) / a).sqrt(), x_t, a.rsqrt(), eps)


def posterior_coefficients(alpha_bar: Tensor, alpha_bar_prev: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of x_0 and of x_t in μ̃_t (DDPM eq. 7), for the step from ᾱ_t to ᾱ_prev.

    With α = ᾱ_t/ᾱ_prev and β = 1 − α:  √ᾱ_prev·β/(1−ᾱ_t)  and  √α·(1−ᾱ_prev)/(1−ᾱ_t).
    On a sub-sequence ᾱ_prev is that of the grid's own previous step.
    """
    alpha = alpha_bar / alpha_bar_prev
    of_x_0 = alpha_bar_prev.sqrt() * (1.0 - alpha) / (1.0 - alpha_bar)
    of_x_t = alpha.sqrt() * (1.0 - alpha_bar_prev) / (1.0 - alpha_bar)
    return of_x_0, of_x_t


def x_0_to_posterior_mean(
    x_0: Tensor, x_t: Tensor, alpha_bar: AlphaBar, alpha_bar_prev: AlphaBar
) -> Tensor:
    """μ̃_t(x_t, x_0) (DDPM eq. 7): where the step from ᾱ_t to ᾱ_prev divides x_t … x_0."""
    of_x_0, of_x_t = posterior_coefficients(
        broadcast(alpha_bar, x_t), broadcast(alpha_bar_prev, x_t)
    )
    return _combine(of_x_t, x_t, of_x_0, x_0)


def posterior_mean_to_x_0(
    mean: Tensor, x_t: Tensor, alpha_bar: AlphaBar, alpha_bar_prev: AlphaBar
) -> Tensor:
    """x_0 from μ̃_t (DDPM eq. 7 solved for x_0)."""
    of_x_0, of_x_t = posterior_coefficients(
        broadcast(alpha_bar, x_t), broadcast(alpha_bar_prev, x_t)
    )
    return _combine(-of_x_t / of_x_0, x_t, 1.0 / of_x_0, mean)


def eps_to_posterior_mean(
    eps: Tensor, x_t: Tensor, alpha_bar: AlphaBar, alpha_bar_prev: AlphaBar
) -> Tensor:
    """μ_t = (x_t − β/√(1−ᾱ_t)·ε) / √α (DDPM eq. 11). Not defined at ᾱ_t = 0."""
    a = broadcast(alpha_bar, x_t)
    alpha = a / broadcast(alpha_bar_prev, x_t)
    return _combine(alpha.rsqrt(), x_t, -(1.0 - alpha) / ((1.0 - a) * alpha).sqrt(), eps)


def posterior_mean_to_eps(
    mean: Tensor, x_t: Tensor, alpha_bar: AlphaBar, alpha_bar_prev: AlphaBar
) -> Tensor:
    """ε from μ_t (DDPM eq. 11 solved for ε). Not defined where β = 0."""
    a = broadcast(alpha_bar, x_t)
    alpha = a / broadcast(alpha_bar_prev, x_t)
    root = (1.0 - a).sqrt()
    return _combine(root / (1.0 - alpha), x_t, -root * alpha.sqrt() / (1.0 - alpha), mean)


def to_x_0(
    prediction: Tensor,
    x_t: Tensor,
    alpha_bar: AlphaBar,
    *,
    prediction_type: str,
    alpha_bar_prev: AlphaBar | None = None,
) -> Tensor:
    """x_0 as a prediction of any kind implies it, in x_t's dtype.

    alpha_bar_prev: ᾱ_{t−1} of the *training* schedule, needed for "posterior_mean" alone.
    Raises UserError for an unknown kind, ValueError when alpha_bar_prev is missing.
    """
    kind = check_prediction_type(prediction_type)
    if kind == "epsilon":
        return eps_to_x_0(prediction, x_t, alpha_bar)
    if kind == "sample":
        return prediction.to(x_t.dtype)
    if kind == "v_prediction":
        return v_to_x_0(prediction, x_t, alpha_bar)
    return posterior_mean_to_x_0(prediction, x_t, alpha_bar, _given(alpha_bar_prev))


def to_eps(
    prediction: Tensor,
    x_t: Tensor,
    alpha_bar: AlphaBar,
    *,
    prediction_type: str,
    alpha_bar_prev: AlphaBar | None = None,
) -> Tensor:
    """ε as a prediction of any kind implies it, in x_t's dtype; arguments as in `to_x_0`.

    For "posterior_mean" it goes by way of x_0, which stands at ᾱ_t = 0 as well.
    """
    kind = check_prediction_type(prediction_type)
    if kind == "epsilon":
        return prediction.to(x_t.dtype)
    if kind == "sample":
        return x_0_to_eps(prediction, x_t, alpha_bar)
    if kind == "v_prediction":
        return v_to_eps(prediction, x_t, alpha_bar)
    work = x_t.to(work_dtype(x_t.device))
    x_0 = posterior_mean_to_x_0(prediction, work, alpha_bar, _given(alpha_bar_prev))
    return x_0_to_eps(x_0, work, alpha_bar).to(x_t.dtype)


def _given(alpha_bar_prev: AlphaBar | None) -> AlphaBar:
    if alpha_bar_prev is None:
        raise ValueError(
            "a posterior-mean prediction needs alpha_bar_prev of the training schedule"
        )
    return alpha_bar_prev


def _combine(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """a·x + b·y in the work dtype, cast last to x's dtype."""
    if x.shape != y.shape:
        raise ValueError(f"shapes differ: {tuple(x.shape)} and {tuple(y.shape)}")
    work = work_dtype(x.device)
    return torch.add(a * x.to(work), b * y.to(work)).to(x.dtype)
