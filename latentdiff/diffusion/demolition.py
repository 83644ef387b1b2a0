"""DDPM as demolition and rebuilding: a loss in four random variables, and its reduced form.

After Su Jianlin's notes on diffusion models, part 1 ("DDPM = demolition + rebuilding"). There a
step is x_t = α_t·x_{t−1} + β_t·ε_t with α_t² + β_t² = 1, and ᾱ_t = ∏ α_s, β̄_t = √(1 − ᾱ_t²): his α,
β, ᾱ, β̄ are √α, √β, √ᾱ, √(1−ᾱ) of this library. His network names the noise ε_t of the last step
alone; with ε̄ the noise of x_{t−1}, the loss has four variables (x_0, ε̄, ε_t, t):

  ‖ε_t − (β_t/β̄_t)·ε_θ(x_t, t)‖²,    x_t = ᾱ_t·x_0 + α_t·β̄_{t−1}·ε̄ + β_t·ε_t

where ε_θ is Ho's network, which names the whole noise of x_t. Turning (ε̄, ε_t) into (ε, ω), two
independent standard normals of which x_t contains ε alone, lets ω be integrated out: what is left
has two variables less and the same gradient in expectation, with a smaller variance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentdiff.diffusion.forward_process import q_sample
from latentdiff.diffusion.noise_schedule import NoiseSchedule

PredictEps = Callable[[Tensor, Tensor], Tensor]


def step_noise_shares(t: Tensor, schedule: NoiseSchedule, like: Tensor) -> tuple[Tensor, Tensor]:
    """(of ε_t, of ε̄) in the whole noise of x_t: β_t/β̄_t and α_t·β̄_{t−1}/β̄_t in Su's letters.

    (B, 1, …) float64 each; their squares add to 1. At t = 0 there is no noise before: (1, 0).
    """
    whole = 1.0 - schedule.gather(schedule.alpha_bar, t, like)
    before = 1.0 - schedule.gather(schedule.alpha_bar_prev, t, like)
    alpha = schedule.gather(schedule.alpha, t, like)
    return ((1.0 - alpha) / whole).sqrt(), (alpha * before / whole).sqrt()


def merge_noise(
    eps_before: Tensor, eps_t: Tensor, t: Tensor, schedule: NoiseSchedule
) -> tuple[Tensor, Tensor]:
    """(ε, ω): ε the whole noise of x_t, ω what of (ε̄, ε_t) x_t says nothing about. A rotation."""
    of_step, of_before = step_noise_shares(t, schedule, eps_t)
    eps = of_before * eps_before + of_step * eps_t
    omega = of_step * eps_before - of_before * eps_t
    return eps.to(eps_t.dtype), omega.to(eps_t.dtype)


def split_noise(
    eps: Tensor, omega: Tensor, t: Tensor, schedule: NoiseSchedule
) -> tuple[Tensor, Tensor]:
    """(ε̄, ε_t) again: `merge_noise` the other way."""
    of_step, of_before = step_noise_shares(t, schedule, eps)
    eps_before = of_before * eps + of_step * omega
    eps_t = of_step * eps - of_before * omega
    return eps_before.to(eps.dtype), eps_t.to(eps.dtype)


def four_variable_loss(
    predict: PredictEps,
    x_0: Tensor,
    eps_before: Tensor,
    eps_t: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
) -> Tensor:
    """‖ε_t − (β_t/β̄_t)·ε_θ‖² in Su's letters, the mean over a sample's elements: (B,) float64.

    predict(x_t, t): Ho's ε_θ (B, …); t: (B,) int64.
    """
    eps, _ = merge_noise(eps_before, eps_t, t, schedule)
    of_step, _ = step_noise_shares(t, schedule, x_0)
    said = predict(q_sample(x_0, t, eps, schedule), t).to(torch.float64)
    return (eps_t.to(torch.float64) - of_step * said).square().flatten(1).mean(dim=1)


def reduced_loss(
    predict: PredictEps, x_0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The four-variable loss with ω integrated out, (B,) float64.

    (β_t/β̄_t)²·‖ε − ε_θ‖² + (α_t·β̄_{t−1}/β̄_t)² in Su's letters, per element: L_simple times a
    weight, plus a constant that no network can lower (what x_t does not say about ε_t).
    """
    of_step, of_before = step_noise_shares(t, schedule, x_0)
    said = predict(q_sample(x_0, t, eps, schedule), t).to(torch.float64)
    error = (eps.to(torch.float64) - said).square()
    return (of_step.square() * error + of_before.square()).flatten(1).mean(dim=1)
