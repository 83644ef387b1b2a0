"""Targets, weights and timestep draws."""

import math

import numpy as np
import pytest
import torch

from latentdiff.diffusion import objective
from latentdiff.diffusion.forward_process import q_sample
from latentdiff.diffusion.likelihood import step_kl
from latentdiff.diffusion.noise_schedule import linear, scaled_linear
from latentdiff.diffusion.objective import (
    NUM_STRATA,
    WEIGHTINGS,
    loss,
    loss_weights,
    sample_timesteps,
    squared_error_ratio,
    target,
)
from latentdiff.diffusion.prediction import PREDICTION_TYPES, to_x_0, x_0_to_eps
from latentdiff.errors import UserError
from latentdiff.seeding import uniform

SCHEDULE = scaled_linear()


def draw(t, dtype=torch.float32, schedule=SCHEDULE):
    generator = torch.Generator().manual_seed(0)
    x_0, eps, error = torch.randn(3, len(t), 4, 3, 3, generator=generator, dtype=dtype)
    t = torch.tensor(t)
    return x_0, q_sample(x_0, t, eps, schedule), eps, t, error


def test_the_default_is_the_plain_mse_on_eps():
    x_0, x_t, eps, t, guess = draw([5, 300, 900])
    record = loss(guess, x_0, x_t, eps, t, SCHEDULE)
    torch.testing.assert_close(record.loss, torch.nn.functional.mse_loss(guess, eps))
    assert torch.equal(record.target, eps)
    assert record.per_sample.shape == record.mse.shape == record.weight.shape == (3,)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_a_perfect_prediction_has_no_loss_and_implies_the_data(kind):
    x_0, x_t, eps, t, _ = draw([1, 300, 900], torch.float64)
    goal = target(x_0, x_t, eps, t, SCHEDULE, prediction_type=kind)
    implied = to_x_0(
        goal,
        x_t,
        SCHEDULE.alpha_bar[t],
        prediction_type=kind,
        alpha_bar_prev=SCHEDULE.alpha_bar_prev[t],
    )
    torch.testing.assert_close(implied, x_0, rtol=1e-8, atol=1e-8)
    x_0, x_t, eps, t, _ = draw([1, 300, 900])
    goal = target(x_0, x_t, eps, t, SCHEDULE, prediction_type=kind)
    assert float(loss(goal, x_0, x_t, eps, t, SCHEDULE, prediction_type=kind).loss) < 1e-12


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_batch_weighs_each_sample_by_its_own_timestep(kind, weighting):
    x_0, x_t, eps, t, guess = draw([5, 300, 900])
    settings = {"prediction_type": kind, "weighting": weighting}
    record = loss(guess, x_0, x_t, eps, t, SCHEDULE, **settings)
    weight = loss_weights(SCHEDULE, **settings)[t]
    mse = (guess - record.target).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(record.per_sample, weight.float() * mse)
    torch.testing.assert_close(record.loss, (weight.float() * mse).mean())


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("weighting", "variance"),
    [("variational", "fixed_large"), ("variational_small", "fixed_small")],
)
def test_variational_weights_are_those_of_the_kl(kind, weighting, variance):
    x_0, x_t, eps, t, error = draw([1, 300, 999], torch.float64)
    goal = target(x_0, x_t, eps, t, SCHEDULE, prediction_type=kind)
    guess = goal + 1e-3 * error
    implied = to_x_0(
        guess,
        x_t,
        SCHEDULE.alpha_bar[t],
        prediction_type=kind,
        alpha_bar_prev=SCHEDULE.alpha_bar_prev[t],
    )
    settings = {"variance": variance}
    excess = step_kl(x_0, x_t, implied, t, SCHEDULE, **settings) - step_kl(
        x_0, x_t, x_0, t, SCHEDULE, **settings
    )
    weight = loss_weights(SCHEDULE, prediction_type=kind, weighting=weighting)[t]
    weighted = weight * (guess - goal).square().flatten(1).sum(1)
    torch.testing.assert_close(weighted, excess, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("to", PREDICTION_TYPES)
@pytest.mark.parametrize("of", PREDICTION_TYPES)
def test_losses_on_two_kinds_differ_by_their_weight_alone(of, to):
    """One guess of x_0, worded as each kind: the same order of guesses, so the same optimum."""
    x_0, x_t, eps, t, error = draw([1, 40, 300, 999], torch.float64)
    guess = x_0 + 0.1 * error

    def squared_error(kind):
        implied_eps = x_0_to_eps(guess, x_t, SCHEDULE.alpha_bar[t])
        said = target(guess, x_t, implied_eps, t, SCHEDULE, prediction_type=kind)
        goal = target(x_0, x_t, eps, t, SCHEDULE, prediction_type=kind)
        return (said - goal).square().flatten(1).mean(dim=1)

    ratio = squared_error_ratio(SCHEDULE, of, to)[t]
    torch.testing.assert_close(squared_error(to), ratio * squared_error(of), rtol=1e-7, atol=0)


def test_an_error_in_eps_weighs_one_over_the_snr_of_one_in_x_0():
    ratio = squared_error_ratio(SCHEDULE, "epsilon", "sample")
    torch.testing.assert_close(ratio, 1.0 / SCHEDULE.snr, rtol=1e-9, atol=0)


def test_variational_weight_on_eps_is_ddpms_equation_12():
    beta, alpha, alpha_bar = SCHEDULE.beta, SCHEDULE.alpha, SCHEDULE.alpha_bar
    expected = beta**2 / (2 * beta * alpha * (1 - alpha_bar))
    torch.testing.assert_close(
        loss_weights(SCHEDULE, weighting="variational"), expected, rtol=1e-9, atol=0
    )


def test_min_snr_is_the_papers_table():
    s, gamma = SCHEDULE.snr, 5.0
    clipped = s.clamp(max=gamma)
    for kind, expected in (
        ("epsilon", clipped / s),
        ("v_prediction", clipped / (s + 1)),
        ("sample", clipped),
    ):
        weights = loss_weights(SCHEDULE, prediction_type=kind, weighting="min_snr", gamma=gamma)
        torch.testing.assert_close(weights, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_min_snr_is_finite_under_zero_terminal_snr(kind):
    rescaled = SCHEDULE.rescale_zero_terminal_snr()
    weights = loss_weights(rescaled, prediction_type=kind, weighting="min_snr")
    assert bool(torch.isfinite(weights).all())
    assert float(weights[-1]) == (1.0 if kind == "epsilon" else 0.0)


def test_an_infinite_weight_is_refused_by_name():
    rescaled = SCHEDULE.rescale_zero_terminal_snr()
    with pytest.raises(UserError, match="infinite"):
        loss_weights(rescaled, weighting="variational")
    for kind in ("sample", "v_prediction", "posterior_mean"):
        weights = loss_weights(rescaled, prediction_type=kind, weighting="variational")
        assert bool(torch.isfinite(weights).all())


def test_unknown_names_and_a_bad_gamma_are_refused():
    with pytest.raises(UserError, match="min_snr"):
        loss_weights(SCHEDULE, weighting="min-snr")
    with pytest.raises(UserError, match="gamma"):
        loss_weights(SCHEDULE, weighting="min_snr", gamma=0.0)
    with pytest.raises(UserError, match="stratified"):
        sample_timesteps(torch.zeros(1), torch.zeros(1), 10, "stratifie")


def test_gradient_flows_to_the_prediction_alone():
    x_0, x_t, eps, t, guess = draw([10, 20])
    guess.requires_grad_(True)
    loss(guess, x_0, x_t, eps, t, SCHEDULE).loss.backward()
    torch.testing.assert_close(guess.grad, 2 * (guess.detach() - eps) / eps.numel())


def draws(positions, seed=0):
    return np.array([uniform(seed, "timestep", int(p)) for p in positions])


def test_uniform_timesteps_are_the_floor_of_the_draws():
    u = torch.tensor([0.0, 0.0005, 0.001, 0.5, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert sample_timesteps(u, torch.arange(5), 1000).tolist() == [0, 0, 1, 500, 999]
    almost_one = torch.tensor([np.nextafter(np.float32(1), np.float32(0))])
    assert sample_timesteps(almost_one, torch.zeros(1), 10**9).item() <= 10**9 - 1
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        sample_timesteps(torch.tensor([1.0]), torch.zeros(1), 10)


@pytest.mark.parametrize("method", ["uniform", "stratified"])
def test_timesteps_do_not_depend_on_how_positions_are_batched(method):
    positions = np.arange(1000, 1100)
    whole = sample_timesteps(draws(positions), positions, 1000, method)
    parts = [
        sample_timesteps(draws(part), part, 1000, method) for part in np.split(positions, [7, 64])
    ]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("batch", [2, 16, 64, NUM_STRATA])
def test_an_aligned_batch_of_stratified_timesteps_covers_equal_parts_once(batch):
    positions = np.arange(3 * batch, 4 * batch)
    t = sample_timesteps(draws(positions), positions, 1024, "stratified")
    parts = t * batch // 1024
    assert sorted(parts.tolist()) == list(range(batch))


def test_stratified_timesteps_are_uniform_over_all():
    positions = np.arange(20 * NUM_STRATA)
    t = sample_timesteps(draws(positions), positions, 10, "stratified")
    counts = torch.bincount(t, minlength=10).double() / len(positions)
    assert float((counts - 0.1).abs().max()) < 0.003


def test_a_shift_moves_the_median_timestep_and_keeps_the_ends():
    u = np.linspace(0.0, 1.0, 9, endpoint=False)
    plain = sample_timesteps(u, torch.arange(9), 1000)
    assert torch.equal(sample_timesteps(u, torch.arange(9), 1000, shift=1.0), plain)
    shifted = sample_timesteps(np.array([0.0, 0.5, 1 - 1e-9]), torch.arange(3), 1000, shift=3.0)
    assert shifted.tolist() == [0, 750, 999]
    with pytest.raises(ValueError, match="shift is 0"):
        sample_timesteps(u, torch.arange(9), 1000, shift=0.0)


def test_variational_small_needs_two_steps():
    with pytest.raises(UserError, match="at least 2"):
        loss_weights(linear(1), weighting="variational_small")


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (3, 7, 6), (3, 8)])
def test_the_loss_is_the_same_for_latents_and_embeddings_with_the_target_made_before(shape):
    schedule = scaled_linear(100)
    draw = torch.Generator().manual_seed(0)
    x_0, eps, prediction = (torch.randn(shape, generator=draw) for _ in range(3))
    t = torch.tensor([0, 40, 99])
    for kind in ("epsilon", "v_prediction", "sample"):
        chosen = {"prediction_type": kind, "weighting": "min_snr"}
        made = objective.Noising(schedule, **chosen)(x_0, eps, t)
        whole = objective.loss(prediction, x_0, made["x_t"], eps, t, schedule, **chosen)
        parts = objective.weighted_error(prediction, made["target"], made["weight"])
        assert torch.equal(whole.loss, parts.loss)
        assert torch.equal(whole.per_sample, parts.per_sample)
        expected = (prediction - made["target"]).square().flatten(1).mean(1) * made["weight"]
        torch.testing.assert_close(parts.per_sample, expected)


def test_a_prediction_of_another_shape_is_no_broadcast():
    with pytest.raises(ValueError, match="has shape"):
        objective.weighted_error(torch.zeros(2, 3), torch.zeros(2, 1), torch.ones(2))
