"""The flow's likelihood against densities that are known."""

import math

import pytest
import torch

from latentdiff.diffusion.flow_likelihood import flow_likelihood
from latentdiff.diffusion.noise_schedule import linear
from latentdiff.diffusion.score import (
    angle_to_timestep,
    eps_to_score,
    score_to_eps,
    timestep_to_angle,
    to_score,
    to_v,
)

SCHEDULE = linear()
RISING = [*range(0, 100, 5), *range(100, 1000, 20), 999]


def one_dimensional(mean, std):
    def predict(x, t):
        a = SCHEDULE.alpha_bar[t].reshape(-1, *[1] * (x.ndim - 1))
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * std**2 + 1 - a)

    return predict


def test_bits_per_dimension_of_a_gaussian_are_its_entropy():
    """Second moments alone enter: two points with the data's mean and variance are exact."""
    mean, std = 0.3, 0.5
    x_0 = torch.tensor([[mean - std], [mean + std]], dtype=torch.float64)
    found = flow_likelihood(one_dimensional(mean, std), x_0, SCHEDULE, RISING)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * std**2)
    assert float(found.bits_per_dimension.mean()) == pytest.approx(entropy, abs=1e-3)
    expected = torch.distributions.Normal(mean, std).log_prob(x_0)[:, 0]
    torch.testing.assert_close(found.log_p, expected, rtol=0, atol=4e-3)
    torch.testing.assert_close(found.log_p, found.log_prior + found.log_volume)


def correlated():
    mean = torch.tensor([0.4, -0.2], dtype=torch.float64)
    cov = torch.tensor([[0.8, 0.5], [0.5, 0.6]], dtype=torch.float64)

    def predict(x, t):
        a = SCHEDULE.alpha_bar[int(t[0])]
        total = a * cov + (1 - a) * torch.eye(2, dtype=torch.float64)
        return (1 - a).sqrt() * (x - a.sqrt() * mean) @ torch.linalg.inv(total)

    return predict, torch.distributions.MultivariateNormal(mean, cov)


def test_the_exact_trace_gives_a_correlated_gaussians_density():
    predict, truth = correlated()
    x_0 = torch.tensor([[0.0, 0.0], [1.0, 0.5], [-1.0, 0.7]], dtype=torch.float64)
    found = flow_likelihood(predict, x_0, SCHEDULE, range(0, 1000, 3))
    a = SCHEDULE.alpha_bar[-1]  # what is left of the data there: the prior is not quite N(0, I)
    end = torch.distributions.MultivariateNormal(
        a.sqrt() * truth.loc, a * truth.covariance_matrix + (1 - a) * torch.eye(2).double()
    )
    volume = truth.log_prob(x_0) - end.log_prob(found.noise)
    torch.testing.assert_close(found.log_volume, volume, rtol=0, atol=2e-3)
    torch.testing.assert_close(found.log_p, truth.log_prob(x_0), rtol=0, atol=0.02)
    assert found.noise.abs().max() < 4


def test_the_trace_estimator_is_the_exact_trace_on_average():
    """All four sign vectors of two elements together have the identity as their second moment."""
    predict, _ = correlated()
    x_0 = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    exact = flow_likelihood(predict, x_0, SCHEDULE, RISING)
    signs = [torch.tensor([[a, b]]) for a in (1.0, -1.0) for b in (1.0, -1.0)]
    every = flow_likelihood(predict, x_0, SCHEDULE, RISING, probes=signs)
    torch.testing.assert_close(every.log_p, exact.log_p)
    one = flow_likelihood(predict, x_0, SCHEDULE, RISING, probes=signs[:1])
    assert abs(float(one.log_p - exact.log_p)) > 0.01


def test_the_likelihood_converges_with_order_two():
    predict, _ = correlated()
    x_0 = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    fine = flow_likelihood(predict, x_0, SCHEDULE, range(1000)).log_p
    errors = []
    for stride in (111, 37):
        coarse = flow_likelihood(predict, x_0, SCHEDULE, range(0, 1000, stride)).log_p
        errors.append(abs(float(coarse - fine)))
    assert 1.6 < math.log(errors[0] / errors[1]) / math.log(3) < 2.6


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "posterior_mean"])
def test_the_kind_of_prediction_does_not_change_the_likelihood(kind):
    from latentdiff.diffusion.objective import target
    from latentdiff.diffusion.prediction import eps_to_x_0

    of_eps = one_dimensional(0.3, 0.5)

    def predict(x, t):
        eps = of_eps(x, t)
        x_0 = eps_to_x_0(eps, x, SCHEDULE.alpha_bar[t])
        return target(x_0, x, eps, t, SCHEDULE, prediction_type=kind)

    x_0 = torch.tensor([[0.1], [0.9]], dtype=torch.float64)
    base = flow_likelihood(of_eps, x_0, SCHEDULE, [0, 300, 999])
    other = flow_likelihood(predict, x_0, SCHEDULE, [0, 300, 999], prediction_type=kind)
    torch.testing.assert_close(other.log_p, base.log_p, rtol=1e-6, atol=1e-6)


def test_timesteps_that_do_not_rise_are_refused():
    with pytest.raises(ValueError, match="rise"):
        flow_likelihood(one_dimensional(0, 1), torch.zeros(1, 1), SCHEDULE, [0, 5, 5])


def test_the_score_is_the_gradient_of_the_log_density():
    x = torch.tensor([[0.2], [-1.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([400, 400])
    a = float(SCHEDULE.alpha_bar[400])
    density = torch.distributions.Normal(a**0.5 * 0.3, (a * 0.25 + 1 - a) ** 0.5)
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    eps = one_dimensional(0.3, 0.5)(x.detach(), t)
    score = to_score(eps, x.detach(), a, prediction_type="epsilon")
    torch.testing.assert_close(score, gradient)
    torch.testing.assert_close(score_to_eps(eps_to_score(eps, a), a), eps)


def test_the_velocity_is_the_motion_of_a_sample_with_the_angle():
    x_0, eps = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angle, small = 0.7, 1e-6
    path = [math.cos(p) * x_0 + math.sin(p) * eps for p in (angle - small, angle, angle + small)]
    v = to_v(x_0, path[1], math.cos(angle) ** 2, prediction_type="sample")
    torch.testing.assert_close(v, (path[2] - path[0]) / (2 * small), rtol=1e-6, atol=1e-8)


def test_angles_and_timesteps_are_each_others_inverse():
    for t in (0, 17.25, 500, 998.5, 999):
        assert angle_to_timestep(timestep_to_angle(t, SCHEDULE), SCHEDULE) == pytest.approx(t)
