"""Estimates of the variational bound against Gaussian closed forms.

Where the exact ε of Gaussian data is linear, every term is a quadratic form in the noise, so a
design with exact first and second moments (signs of a Hadamard matrix) gives its expectation
exactly: no tolerance for chance.
"""

import functools
import itertools
import math

import numpy as np
import pytest
import torch

from latentdiff.diffusion.bound import (
    ESTIMATORS,
    ReverseProcess,
    estimator_cost,
    estimator_spread,
    pair_term,
    posterior_term,
    sampled_bound,
    variational_bound,
)
from latentdiff.diffusion.likelihood import model_variance
from latentdiff.diffusion.noise_schedule import from_betas, linear, scaled_linear
from latentdiff.errors import UserError

MU, STD = 0.7, 0.4
ENTROPY = 0.5 * math.log(2 * math.pi * math.e * STD**2)


def gaussian(schedule, **settings):
    """The exact ε of data N(MU, STD²), as a reverse process."""

    def predict(x_t, t):
        a = schedule.alpha_bar[t].reshape(-1, 1)
        return (1 - a).sqrt() * (x_t - a.sqrt() * MU) / (a * STD**2 + 1 - a)

    return ReverseProcess(predict=predict, schedule=schedule, **settings)


def signs(order):
    """(2^order, 2^order − 1): columns of ±1 with mean 0, variance 1 and no correlation."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(order):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix[:, 1:]


def designed(order):
    """x_0 (N, 1) with the data's exact moments, and noise that is exactly independent of it."""
    columns = signs(order).T.unsqueeze(-1)
    rest = itertools.cycle(columns[1:])
    return MU + STD * columns[0], lambda: next(rest)


def drawn(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_0 = MU + STD * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    return x_0, lambda: torch.randn(x_0.shape, generator=generator, dtype=torch.float64)


def entropy_plus_kl(schedule, variance):
    """H(q(x_0)) + KL(q(x_0 … x_T) ‖ p_θ), the latter along the reverse chain, in nats."""
    a, a_prev, beta = schedule.alpha_bar, schedule.alpha_bar_prev, schedule.beta
    whole, whole_prev = a * STD**2 + 1 - a, a_prev * STD**2 + 1 - a_prev
    exact = whole_prev - (1 - beta) * whole_prev**2 / whole  # Var(x_{t−1} | x_t)
    ratio = exact / model_variance(schedule, variance)
    chain = 0.5 * (ratio - 1 - torch.log(ratio)).sum()
    end = 0.5 * (whole[-1] + a[-1] * MU**2 - 1 - torch.log(whole[-1]))
    return float(ENTROPY + chain + end)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("schedule", [linear(), scaled_linear()], ids=["linear", "scaled linear"])
def test_bits_per_dimension_of_a_gaussian_are_its_entropy_plus_kl(schedule, variance):
    x_0, noise = designed(2)
    bound = variational_bound(gaussian(schedule, variance=variance), x_0, noise)
    expected = entropy_plus_kl(schedule, variance) / math.log(2)
    assert float(bound.bits_per_dimension.mean()) == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(bound.total, bound.prior + bound.steps.sum(1))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_bits_per_dimension_of_8_bit_gaussian_data_are_its_entropy_plus_kl(variance):
    """The entropy of levels of width 2/255 is the density's less log(2/255), to 1e-3 bits."""
    schedule = scaled_linear(200, 0.00085, 0.06)
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1.0
    mu, std = 0.1, 0.2
    share = torch.special.ndtr((levels + 1 / 255 - mu) / std) - torch.special.ndtr(
        (levels - 1 / 255 - mu) / std
    )
    x_0 = levels.repeat_interleave(24).unsqueeze(1)
    eps = torch.from_numpy(np.tile(nodes, 256)).unsqueeze(1)
    weight = share.repeat_interleave(24) * torch.from_numpy(np.tile(weights, 256))

    def predict(x_t, t):
        a = schedule.alpha_bar[t].reshape(-1, 1)
        return (1 - a).sqrt() * (x_t - a.sqrt() * mu) / (a * std**2 + 1 - a)

    model = ReverseProcess(predict=predict, schedule=schedule, variance=variance, discrete=True)
    bound = variational_bound(model, x_0, lambda: eps)
    found = float((weight * bound.bits_per_dimension).sum() / weight.sum())
    a, a_prev, beta = schedule.alpha_bar, schedule.alpha_bar_prev, schedule.beta
    whole, whole_prev = a * std**2 + 1 - a, a_prev * std**2 + 1 - a_prev
    sigma2 = model_variance(schedule, variance).clone()
    sigma2[0] += (2 / 255) ** 2 / 12  # a level's probability is the density spread over its width
    ratio = (whole_prev - (1 - beta) * whole_prev**2 / whole) / sigma2
    nats = 0.5 * math.log(2 * math.pi * math.e * std**2) - math.log(2 / 255)
    nats += 0.5 * float((ratio - 1 - torch.log(ratio)).sum())
    nats += 0.5 * float(whole[-1] + a[-1] * mu**2 - 1 - torch.log(whole[-1]))
    assert found == pytest.approx(nats / math.log(2), abs=1e-3)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_three_estimators_have_one_expectation_term_by_term(variance):
    model = gaussian(linear(20, 1e-3, 0.3), variance=variance)
    bounds = []
    for estimator in ESTIMATORS:
        x_0, noise = designed(6)
        bounds.append(variational_bound(model, x_0, noise, estimator=estimator))
    for bound in bounds[1:]:
        torch.testing.assert_close(bound.steps.mean(0), bounds[0].steps.mean(0))
        torch.testing.assert_close(bound.prior.mean(), bounds[0].prior.mean())
        torch.testing.assert_close(bound.total.mean(), bounds[0].total.mean())


def test_the_estimators_agree_for_a_network_that_is_not_linear():
    schedule = linear(10, 1e-3, 0.5)
    model = ReverseProcess(predict=lambda x, t: torch.tanh(2 * x), schedule=schedule)
    totals = []
    for estimator in ESTIMATORS:
        x_0, noise = drawn(60_000)
        totals.append(variational_bound(model, x_0, noise, estimator=estimator).total)
    for total in totals[1:]:
        error = math.sqrt(float(total.var() + totals[0].var()) / len(total))
        assert abs(float(total.mean() - totals[0].mean())) < 4 * error


@functools.cache
def spreads(predict_error):
    schedule = linear(25, 1e-3, 0.4)
    exact = gaussian(schedule)
    model = ReverseProcess(
        predict=lambda x, t: exact.predict(x, t) + predict_error * torch.sin(3 * x),
        schedule=schedule,
        variance="fixed_large",
    )
    found = {}
    for estimator in ESTIMATORS:
        x_0, noise = drawn(64)
        found[estimator] = estimator_spread(model, x_0, noise, estimator=estimator, repeats=60)
    return found


def test_integrating_out_makes_every_term_of_the_posterior_estimator_steadier():
    spread = spreads(predict_error=0.0)
    best = spread["posterior"]
    for other in ("pair", "trajectory"):
        assert bool((spread[other].step_variances[1:] > 1.5 * best.step_variances[1:]).all())
        assert spread[other].total_mean == pytest.approx(best.total_mean, abs=0.15)
    assert spread["pair"].total_variance > 1.5 * best.total_variance


def test_terms_along_a_trajectory_cancel_only_where_the_network_is_right():
    """There log q(x_1 … x_T | x_0)/p_θ(x_0 … x_T) is −log p(x_0) on every path (DDPM eq. 3)."""
    right, wrong = spreads(predict_error=0.0), spreads(predict_error=0.5)
    assert right["trajectory"].total_variance < 0.2 * right["posterior"].total_variance
    assert wrong["trajectory"].total_variance > 5 * right["trajectory"].total_variance


def test_costs_are_those_that_are_spent():
    schedule = linear(12, 1e-3, 0.3)
    for estimator in ESTIMATORS:
        calls, draws = [], []

        def predict(x, t, calls=calls):
            calls.append(t)
            return x

        def noise(draws=draws):
            draws.append(1)
            return torch.ones(2, 1)

        model = ReverseProcess(predict=predict, schedule=schedule)
        variational_bound(model, torch.zeros(2, 1), noise, estimator=estimator)
        cost = estimator_cost(estimator, 12)
        assert (len(calls), len(draws)) == (cost.whole_calls, cost.whole_draws)
    assert estimator_cost("posterior", 1000).term_draws == 1
    assert estimator_cost("trajectory", 1000).term_draws == 500.5


def test_a_few_terms_estimate_the_whole_bound():
    model = gaussian(linear(30, 1e-3, 0.2))
    x_0, noise = designed(2)
    whole = float(variational_bound(model, x_0, noise).total.mean())
    every = torch.arange(1, 30).expand(len(x_0), -1)
    x_0, noise = designed(2)
    assert float(sampled_bound(model, x_0, every, noise).total.mean()) == pytest.approx(whole)
    x_0, noise = drawn(60_000)
    some = torch.randint(1, 30, (len(x_0), 3), generator=torch.Generator().manual_seed(1))
    found = sampled_bound(model, x_0, some, noise)
    assert found.steps.shape == (len(x_0), 4)
    error = float(found.total.std()) / math.sqrt(len(x_0))
    assert float(found.total.mean()) == pytest.approx(whole, abs=4 * error)


def test_terms_of_mixed_timesteps_equal_those_of_each_alone():
    model = gaussian(linear(20, 1e-3, 0.3))
    x_0, noise = drawn(4)
    eps, t = noise(), torch.tensor([0, 3, 0, 19])
    mixed = posterior_term(model, x_0, t, eps)
    for k in range(4):
        row = slice(k, k + 1)
        torch.testing.assert_close(mixed[row], posterior_term(model, x_0[row], t[row], eps[row]))


def test_the_bound_tightens_to_the_entropy_with_more_steps():
    gaps = []
    for count in (10, 100, 1000):
        # log SNR falls evenly from 12 to −12, so that no single step is long.
        alpha_bar = torch.sigmoid(torch.linspace(12, -12, count, dtype=torch.float64))
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        model = gaussian(from_betas(1 - alpha_bar / before), variance="fixed_large")
        x_0, noise = designed(2)
        gaps.append(float(variational_bound(model, x_0, noise).total.mean()) - ENTROPY)
    assert gaps[0] > 5 * gaps[1] > 0.0
    assert gaps[1] > 5 * gaps[2] > 0.0


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "posterior_mean"])
def test_the_kind_of_prediction_does_not_change_the_bound(kind):
    from latentdiff.diffusion.objective import target
    from latentdiff.diffusion.prediction import eps_to_x_0

    schedule = linear(15, 1e-3, 0.3)
    of_eps = gaussian(schedule)

    def predict(x_t, t):
        eps = of_eps.predict(x_t, t)
        x_0 = eps_to_x_0(eps, x_t, schedule.alpha_bar[t])
        return target(x_0, x_t, eps, t, schedule, prediction_type=kind)

    other = ReverseProcess(predict=predict, schedule=schedule, prediction_type=kind)
    bounds = []
    for model in (of_eps, other):
        x_0, noise = designed(2)
        bounds.append(variational_bound(model, x_0, noise))
    torch.testing.assert_close(bounds[0].steps, bounds[1].steps, rtol=1e-7, atol=1e-9)


def test_unknown_names_and_impossible_terms_are_refused():
    model = gaussian(linear(5))
    x_0, noise = drawn(2)
    with pytest.raises(UserError, match="trajectory"):
        variational_bound(model, x_0, noise, estimator="trajektory")
    with pytest.raises(UserError, match="fixed_large"):
        gaussian(linear(5), variance="fixed_big")
    with pytest.raises(ValueError, match="at least 1"):
        pair_term(model, x_0, x_0, x_0, torch.tensor([0, 1]))
