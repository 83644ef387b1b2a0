"""The variational bound of a trained network, by three estimators of one expectation.

For t ≥ 1 the bound's term is E_q[log q(x_{t−1}|x_t, x_0) − log p_θ(x_{t−1}|x_t)] (DDPM, Ho et al.
2020, eq. 5), and at t = 0 it is E_q[−log p_θ(x_0|x_1)]. What is sampled differs:

  trajectory  x_1 … x_T along one walk of the forward process, a single sample of DDPM eq. 3
  pair        x_{t−1} from x_0 in one shot and x_t from it by one step, afresh for every t
  posterior   x_t from x_0 in one shot; x_{t−1} is integrated out, as a KL between Gaussians

All three agree in expectation, term by term. Everything is float64, in nats per sample.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from latentdiff.diffusion.forward_process import posterior_mean, q_sample, q_step
from latentdiff.diffusion.likelihood import (
    bits_per_dimension,
    discrete_decoder_nll,
    gaussian_decoder_nll,
    model_variance,
    prior_kl,
    step_kl,
)
from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.prediction import to_x_0
from latentdiff.errors import unknown_name

Estimator = Literal["posterior", "pair", "trajectory"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
Noise = Callable[[], Tensor]
"""Draws fresh standard normal noise shaped like x_0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReverseProcess:
    """p_θ(x_{t−1} | x_t) as a network and a variance describe it.

    predict(x_t, t): the network's answer (B, …) for t (B,) int64; variance: "fixed_large" (β_t) or
    "fixed_small" (β̃_t); discrete: x_0 holds 8-bit pixels scaled to [−1, 1], so L_0 is the negative
    log of a probability (DDPM eq. 13), otherwise of a density. Raises UserError for an unknown
    variance.
    """

    predict: Callable[[Tensor, Tensor], Tensor]
    schedule: NoiseSchedule
    prediction_type: str = "epsilon"
    variance: str = "fixed_small"
    discrete: bool = False

    def __post_init__(self) -> None:
        model_variance(self.schedule, self.variance)

    def x_0(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean data that the network takes x_t (B, …) to hold, float64."""
        schedule = self.schedule
        return to_x_0(
            self.predict(x_t, t).to(torch.float64),
            x_t.to(torch.float64),
            schedule.gather(schedule.alpha_bar, t, t).reshape(-1),
            prediction_type=self.prediction_type,
            alpha_bar_prev=schedule.gather(schedule.alpha_bar_prev, t, t).reshape(-1),
        )

    def decoder_nll(self, x_0: Tensor, guess: Tensor) -> Tensor:
        """L_0 for the network's guess at t = 0, (B,)."""
        decoder = discrete_decoder_nll if self.discrete else gaussian_decoder_nll
        return decoder(x_0, guess, float(model_variance(self.schedule, self.variance)[0]))


@dataclasses.dataclass(frozen=True)
class VariationalBound:
    """One estimate of the bound, in nats per sample, float64.

    prior: (B,) L_T; steps: (B, T) with L_0 in column 0 and L_{t−1} of index t in column t;
    total: (B,) their sum; bits_per_dimension: (B,).
    """

    prior: Tensor
    steps: Tensor
    total: Tensor
    bits_per_dimension: Tensor


def variational_bound(
    model: ReverseProcess, x_0: Tensor, noise: Noise, *, estimator: str = "posterior"
) -> VariationalBound:
    """An unbiased estimate of the whole bound: T calls of the network.

    x_0: (B, …). Raises UserError for an unknown estimator.
    """
    if estimator not in ESTIMATORS:
        raise unknown_name("estimator", estimator, ESTIMATORS)
    walk = {"posterior": _by_posterior, "pair": _by_pairs, "trajectory": _by_trajectory}[estimator]
    steps = torch.stack(list(walk(model, x_0, noise)), dim=1)
    prior = prior_kl(x_0, model.schedule)
    if estimator == "trajectory":
        # L_T is sampled too: log q(x_T|x_0) − log p(x_T), which the walk yields last.
        prior, steps = steps[:, -1], steps[:, :-1]
    return _bound(prior, steps, prior + steps.sum(dim=1), x_0)


def sampled_bound(model: ReverseProcess, x_0: Tensor, t: Tensor, noise: Noise) -> VariationalBound:
    """An unbiased estimate from K of the T − 1 middle terms: K + 1 calls of the network.

    t: (B, K) int64 in 1 … T−1, drawn uniformly, independently or stratified. L_T and L_0 are always
    there, for L_0 is unlike its neighbours. The result's `steps` are (B, K + 1): L_0, then the K
    terms; its total weighs the latter by (T − 1)/K.
    """
    middle = model.schedule.num_train_timesteps - 1
    first = posterior_term(model, x_0, torch.zeros_like(t[:, 0]), noise())
    columns = [posterior_term(model, x_0, column, noise()) for column in t.unbind(dim=1)]
    prior, steps = prior_kl(x_0, model.schedule), torch.stack([first, *columns], dim=1)
    total = prior + first + steps[:, 1:].mean(dim=1) * middle
    return _bound(prior, steps, total, x_0)


def posterior_term(model: ReverseProcess, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """The term of each sample's own t (B,), (B,), from x_t = √ᾱ_t·x_0 + √(1−ᾱ_t)·ε."""
    x_t = q_sample(x_0, t, eps, model.schedule)
    guess = model.x_0(x_t, t)
    nll = model.decoder_nll(x_0, guess)
    later = t.clamp(min=1)  # step_kl has no value at t = 0, where the decoder's term stands
    kl = step_kl(x_0, x_t, guess, later, model.schedule, variance=model.variance)
    return torch.where(t == 0, nll, kl)


def pair_term(model: ReverseProcess, x_0: Tensor, x_prev: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """log q(x_{t−1}|x_t, x_0) − log p_θ(x_{t−1}|x_t) of each sample, (B,), for t ≥ 1."""
    if bool((t < 1).any()):
        raise ValueError("a pair's term is defined for t of at least 1")
    schedule = model.schedule
    data, before, noisy = (x.to(torch.float64) for x in (x_0, x_prev, x_t))
    guess = model.x_0(x_t, t)
    log_q = _log_normal(
        before - posterior_mean(data, noisy, t, schedule),
        schedule.gather(schedule.posterior_variance, t, noisy),
    )
    log_p = _log_normal(
        before - posterior_mean(guess, noisy, t, schedule),
        schedule.gather(model_variance(schedule, model.variance), t, noisy),
    )
    return (log_q - log_p).flatten(1).sum(dim=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimatorCost:
    """What an estimator spends: calls of the network and draws of noise shaped like x_0.

    whole_calls, whole_draws: for all T terms of a bound; term_calls, term_draws: for the term of
    one t drawn uniformly, as in training (the mean over t).
    """

    whole_calls: int
    whole_draws: int
    term_calls: int
    term_draws: float


def estimator_cost(estimator: str, num_train_timesteps: int) -> EstimatorCost:
    """The cost of one of ESTIMATORS, for one sample. Raises UserError for an unknown name."""
    T = num_train_timesteps
    if estimator not in ESTIMATORS:
        raise unknown_name("estimator", estimator, ESTIMATORS)
    draws = {
        "posterior": (T, 1.0),
        "pair": (2 * T - 1, (2 * T - 1) / T),  # at t = 0, x_{t−1} is x_0 itself
        "trajectory": (T, (T + 1) / 2),  # x_t stands at the end of t + 1 steps
    }
    whole, term = draws[estimator]
    return EstimatorCost(whole_calls=T, whole_draws=whole, term_calls=1, term_draws=term)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimatorSpread:
    """How an estimator scatters over its own noise, x_0 being fixed; float64.

    total_mean, total_variance: of the whole bound in nats, averaged over the samples of x_0;
    step_means, step_variances: (T,) the same for every term.
    """

    total_mean: float
    total_variance: float
    step_means: Tensor
    step_variances: Tensor


def estimator_spread(
    model: ReverseProcess, x_0: Tensor, noise: Noise, *, estimator: str, repeats: int
) -> EstimatorSpread:
    """Mean and variance of an estimator from `repeats` (at least 2) independent estimates."""
    if repeats < 2:
        raise ValueError(f"a variance needs at least 2 repeats, found {repeats}")
    found = [variational_bound(model, x_0, noise, estimator=estimator) for _ in range(repeats)]
    totals, steps = torch.stack([b.total for b in found]), torch.stack([b.steps for b in found])
    return EstimatorSpread(
        total_mean=float(totals.mean()),
        total_variance=float(totals.var(dim=0).mean()),
        step_means=steps.mean(dim=(0, 1)),
        step_variances=steps.var(dim=0).mean(dim=0),
    )


def _by_posterior(model: ReverseProcess, x_0: Tensor, noise: Noise) -> Iterator[Tensor]:
    for t in _timesteps(model.schedule, x_0):
        yield posterior_term(model, x_0, t, noise())


def _by_pairs(model: ReverseProcess, x_0: Tensor, noise: Noise) -> Iterator[Tensor]:
    for index, t in enumerate(_timesteps(model.schedule, x_0)):
        x_prev = q_sample(x_0, t - 1, noise(), model.schedule) if index else x_0
        yield _sampled_term(model, x_0, x_prev, q_step(x_prev, t, noise(), model.schedule), t)


def _by_trajectory(model: ReverseProcess, x_0: Tensor, noise: Noise) -> Iterator[Tensor]:
    x = x_0
    for t in _timesteps(model.schedule, x_0):
        x_prev, x = x, q_step(x, t, noise(), model.schedule)
        yield _sampled_term(model, x_0, x_prev, x, t)
    alpha_bar = model.schedule.alpha_bar[-1].to(x_0.device)
    end, data = x.to(torch.float64), x_0.to(torch.float64)
    log_q = _log_normal(end - alpha_bar.sqrt() * data, 1.0 - alpha_bar)
    yield (log_q - _log_normal(end, torch.ones_like(alpha_bar))).flatten(1).sum(dim=1)


def _sampled_term(
    model: ReverseProcess, x_0: Tensor, x_prev: Tensor, x_t: Tensor, t: Tensor
) -> Tensor:
    if int(t[0]) == 0:
        return model.decoder_nll(x_0, model.x_0(x_t, t))
    return pair_term(model, x_0, x_prev, x_t, t)


def _timesteps(schedule: NoiseSchedule, x_0: Tensor) -> Iterator[Tensor]:
    for index in range(schedule.num_train_timesteps):
        yield torch.full((x_0.shape[0],), index, dtype=torch.int64, device=x_0.device)


def _log_normal(deviation: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (deviation.square() / variance + torch.log(2.0 * math.pi * variance))


def _bound(prior: Tensor, steps: Tensor, total: Tensor, x_0: Tensor) -> VariationalBound:
    return VariationalBound(
        prior=prior,
        steps=steps,
        total=total,
        bits_per_dimension=bits_per_dimension(total, x_0[0].numel()),
    )
