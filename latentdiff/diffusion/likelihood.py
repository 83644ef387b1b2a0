"""The terms of the variational bound in closed form (DDPM, Ho et al. 2020, eq. 5).

−log p(x_0) ≤ L_T + Σ_t L_{t−1} + L_0, in nats per sample, summed over its elements.
In code's counting, the step at index t ≥ 1 has L_{t−1}'s form, and the step at t = 0 is L_0.
Everything is float64. `diffusion.bound` estimates their expectations.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from latentdiff.diffusion.forward_process import posterior_mean
from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.errors import unknown_name

ModelVariance = Literal["fixed_large", "fixed_small"]
MODEL_VARIANCES: tuple[ModelVariance, ...] = get_args(ModelVariance)


def normal_kl(mean_p: Tensor, var_p: Tensor, mean_q: Tensor, var_q: Tensor) -> Tensor:
    """KL(N(mean_p, var_p) ‖ N(mean_q, var_q)) of each element, in nats."""
    ratio = var_p / var_q
    return 0.5 * (ratio - 1.0 - torch.log(ratio) + (mean_p - mean_q).square() / var_q)


def prior_kl(x_0: Tensor, schedule: NoiseSchedule) -> Tensor:
    """L_T = KL(q(x_T | x_0) ‖ N(0, I)), (B,) nats (DDPM eq. 5, first term)."""
    alpha_bar = schedule.alpha_bar[-1].to(x_0.device)
    data = x_0.to(torch.float64)
    one, zero = torch.ones_like(alpha_bar), torch.zeros_like(alpha_bar)
    return normal_kl(alpha_bar.sqrt() * data, 1.0 - alpha_bar, zero, one).flatten(1).sum(1)


def model_variance(schedule: NoiseSchedule, variance: str) -> Tensor:
    """σ_t² of p_θ(x_{t−1} | x_t), (T,) float64 (DDPM section 3.2).

    "fixed_large": β_t; "fixed_small": β̃_t, with β̃_1 standing in at t = 0, where β̃ is 0
    (Nichol & Dhariwal 2021, section 2.1).
    """
    if variance not in MODEL_VARIANCES:
        raise unknown_name("variance", variance, MODEL_VARIANCES)
    if variance == "fixed_large":
        return schedule.beta
    small = schedule.posterior_variance.clone()
    small[0] = small[1] if small.numel() > 1 else schedule.beta[0]
    return small


def step_kl(
    x_0: Tensor,
    x_t: Tensor,
    x_0_hat: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    *,
    variance: str = "fixed_small",
) -> Tensor:
    """L_{t−1} = KL(q(x_{t−1} | x_t, x_0) ‖ p_θ(x_{t−1} | x_t)), (B,) nats, for t ≥ 1 (eq. 8).

    x_0_hat: what the model takes x_0 to be. Not defined at t = 0: see the decoder terms.
    """
    if bool((t < 1).any()):
        raise ValueError("step_kl is defined for t of at least 1; t = 0 is the decoder's term")
    data, noisy, guess = (x.to(torch.float64) for x in (x_0, x_t, x_0_hat))
    true_mean = posterior_mean(data, noisy, t, schedule)
    mean = posterior_mean(guess, noisy, t, schedule)
    true_var = schedule.gather(schedule.posterior_variance, t, noisy)
    var = schedule.gather(model_variance(schedule, variance), t, noisy)
    return normal_kl(true_mean, true_var, mean, var).flatten(1).sum(1)


def gaussian_decoder_nll(x_0: Tensor, mean: Tensor, variance: float) -> Tensor:
    """L_0 = −log N(x_0; mean, variance) for continuous data such as latents, (B,) nats."""
    error = (x_0.to(torch.float64) - mean.to(torch.float64)).square()
    return (0.5 * (error / variance + math.log(2.0 * math.pi * variance))).flatten(1).sum(1)


def discrete_decoder_nll(x_0: Tensor, mean: Tensor, variance: float) -> Tensor:
    """L_0 = −log P(x_0) for 8-bit pixels scaled to [−1, 1], (B,) nats (DDPM eq. 13).

    Each level owns the interval of width 2/255 about it; the two outermost reach to infinity.
    """
    data, centre = x_0.to(torch.float64), mean.to(torch.float64)
    std = math.sqrt(variance)
    upper = (data - centre + 1.0 / 255.0) / std
    lower = (data - centre - 1.0 / 255.0) / std
    # Far in the tails both bounds round to the same cdf: mirror so that they stay small numbers.
    mirrored = lower > 0
    low = torch.where(mirrored, -upper, lower)
    high = torch.where(mirrored, -lower, upper)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    log_inside = log_high + torch.log(-torch.expm1(log_low - log_high))
    log_p = torch.where(data > 0.999, torch.special.log_ndtr(-lower), log_inside)
    log_p = torch.where(data < -0.999, torch.special.log_ndtr(upper), log_p)
    return -log_p.flatten(1).sum(1)


def bits_per_dimension(nats: Tensor, num_elements: int) -> Tensor:
    """nats / (num_elements · ln 2)."""
    return nats / (num_elements * math.log(2.0))
