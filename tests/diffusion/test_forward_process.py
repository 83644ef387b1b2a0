"""q(x_t | x_0) in one shot and step by step, and the posterior, against Bayes' rule."""

import math

import pytest
import torch

from latentdiff.diffusion.forward_process import (
    posterior_mean,
    posterior_variance,
    q_sample,
    q_step,
)
from latentdiff.diffusion.noise_schedule import linear, scaled_linear


def test_steps_compound_to_the_one_shot_mean_and_variance():
    schedule = linear(60)
    one = torch.ones(1, 1, dtype=torch.float64)
    kept, variance = one, torch.zeros_like(one)
    for t in range(60):
        at = torch.tensor([t])
        kept = q_step(kept, at, torch.zeros_like(one), schedule)
        noise = q_step(torch.zeros_like(one), at, one, schedule)
        variance = q_step(one, at, torch.zeros_like(one), schedule) ** 2 * variance + noise**2
        assert float(kept) == pytest.approx(
            float(q_sample(one, at, torch.zeros_like(one), schedule)), rel=1e-12
        )
        assert float(variance) == pytest.approx(
            float(q_sample(torch.zeros_like(one), at, one, schedule)) ** 2, rel=1e-12
        )


def test_samples_have_the_stated_mean_and_variance():
    schedule = scaled_linear()
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.full((2, 200_000), 2.0)
    eps = torch.randn(x_0.shape, generator=generator)
    t = torch.tensor([100, 800])
    x_t = q_sample(x_0, t, eps, schedule)
    for row, level in zip(x_t, schedule.alpha_bar[t], strict=True):
        assert float(row.mean()) == pytest.approx(2.0 * math.sqrt(level), abs=0.01)
        assert float(row.var()) == pytest.approx(1.0 - float(level), rel=0.01)


def test_posterior_is_bayes_rule():
    schedule = linear(50, 1e-3, 0.2)
    t = torch.tensor([1, 20, 49])
    generator = torch.Generator().manual_seed(2)
    x_0, x_t = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    beta, a_prev = schedule.beta[t, None], schedule.alpha_bar[t - 1, None]
    precision = (1 - beta) / beta + 1 / (1 - a_prev)
    mean = ((1 - beta).sqrt() / beta * x_t + a_prev.sqrt() / (1 - a_prev) * x_0) / precision
    torch.testing.assert_close(posterior_mean(x_0, x_t, t, schedule), mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(posterior_variance(t, schedule, x_t), 1 / precision)


def test_the_first_posterior_is_the_data_itself():
    schedule = linear(10)
    x_0, x_t = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0])
    torch.testing.assert_close(posterior_mean(x_0, x_t, t, schedule), x_0)
    assert float(posterior_variance(t, schedule, x_t)) == 0.0


def test_noise_reaches_bfloat16_data_at_the_first_timesteps():
    schedule = scaled_linear()
    x_0 = torch.zeros(2, 64, dtype=torch.bfloat16)
    eps = torch.ones(2, 64, dtype=torch.bfloat16)
    x_t = q_sample(x_0, torch.tensor([0, 1]), eps, schedule)
    assert x_t.dtype == torch.bfloat16
    expected = (1.0 - schedule.alpha_bar[:2]).sqrt()
    torch.testing.assert_close(x_t[:, 0].double(), expected, rtol=4e-3, atol=0.0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shapes differ"):
        q_sample(torch.zeros(1, 2), torch.tensor([0]), torch.zeros(1, 3), linear(10))
