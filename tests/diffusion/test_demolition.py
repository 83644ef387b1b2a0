"""Su's four-variable loss and its reduced form: one expectation, less scatter."""

import pytest
import torch

from latentdiff.diffusion.demolition import (
    four_variable_loss,
    merge_noise,
    reduced_loss,
    split_noise,
    step_noise_shares,
)
from latentdiff.diffusion.forward_process import q_sample, q_step
from latentdiff.diffusion.noise_schedule import su

SCHEDULE = su(100)
T = torch.tensor([0, 1, 30, 99])
GENERATOR = torch.Generator().manual_seed(0)
X_0, BEFORE, STEP, EPS, OMEGA = torch.randn(5, 4, 3, 2, generator=GENERATOR, dtype=torch.float64)


def network(x_t, t):
    return torch.tanh(x_t) + 0.01 * t.reshape(-1, *[1] * (x_t.ndim - 1))


def test_two_steps_of_noise_are_one_shot_of_their_merged_noise():
    later = T.clamp(min=1)
    x_t = q_step(q_sample(X_0, later - 1, BEFORE, SCHEDULE), later, STEP, SCHEDULE)
    eps, _ = merge_noise(BEFORE, STEP, later, SCHEDULE)
    torch.testing.assert_close(q_sample(X_0, later, eps, SCHEDULE), x_t)


def test_merging_is_a_rotation_that_splitting_undoes():
    eps, omega = merge_noise(BEFORE, STEP, T, SCHEDULE)
    torch.testing.assert_close(eps**2 + omega**2, BEFORE**2 + STEP**2)
    before, step = split_noise(eps, omega, T, SCHEDULE)
    torch.testing.assert_close((before, step), (BEFORE, STEP))
    shares = step_noise_shares(T, SCHEDULE, X_0)
    torch.testing.assert_close(shares[0] ** 2 + shares[1] ** 2, torch.ones(4, 1, 1).double())
    assert float(shares[0][0]) == 1.0


def test_integrating_omega_out_gives_the_reduced_loss():
    """The loss is quadratic in each element of ω and x_t is free of it: ±1 is its exact mean."""
    losses = []
    for omega in (torch.ones_like(EPS), -torch.ones_like(EPS)):
        before, step = split_noise(EPS, omega, T, SCHEDULE)
        losses.append(four_variable_loss(network, X_0, before, step, T, SCHEDULE))
    reduced = reduced_loss(network, X_0, EPS, T, SCHEDULE)
    torch.testing.assert_close(torch.stack(losses).mean(0), reduced)


@pytest.mark.parametrize("t", [1, 30, 99])
def test_the_reduced_loss_has_the_same_mean_and_a_smaller_variance(t):
    count = 40_000
    generator = torch.Generator().manual_seed(t)
    x_0, a, b = torch.randn(3, count, 1, generator=generator, dtype=torch.float64)
    times = torch.full((count,), t)
    four = four_variable_loss(network, x_0, a, b, times, SCHEDULE)
    two = reduced_loss(network, x_0, a, times, SCHEDULE)
    error = ((four.var() + two.var()) / count).sqrt()
    assert abs(four.mean() - two.mean()) < 4 * error
    assert two.var() < four.var()


def test_both_losses_teach_the_network_the_same():
    """Gradients with respect to a scale in front of the network, over a design exact in ω."""
    gradients = []
    for reduce in (False, True):
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)

        def scaled(x, t, scale=scale):
            return scale * network(x, t)

        if reduce:
            total = reduced_loss(scaled, X_0, EPS, T, SCHEDULE).sum()
        else:
            parts = [split_noise(EPS, s * torch.ones_like(EPS), T, SCHEDULE) for s in (1, -1)]
            total = sum(four_variable_loss(scaled, X_0, *p, T, SCHEDULE).sum() / 2 for p in parts)
        total.backward()
        gradients.append(scale.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
