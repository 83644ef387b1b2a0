"""The terms of the variational bound against closed forms."""

import math

import pytest
import torch

from latentdiff.diffusion.likelihood import (
    bits_per_dimension,
    discrete_decoder_nll,
    gaussian_decoder_nll,
    normal_kl,
    prior_kl,
    step_kl,
)
from latentdiff.diffusion.noise_schedule import linear
from latentdiff.errors import UserError


def test_normal_kl_equals_torchs():
    mean_p, mean_q = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([0.5, 1.0, 3.0]).double()
    var_p, var_q = torch.tensor([1.0, 0.2, 4.0]).double(), torch.tensor([2.0, 0.2, 0.5]).double()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean_p, var_p.sqrt()),
        torch.distributions.Normal(mean_q, var_q.sqrt()),
    )
    torch.testing.assert_close(normal_kl(mean_p, var_p, mean_q, var_q), expected)


def test_prior_term_is_the_closed_form():
    schedule = linear(100, 1e-3, 0.1)
    x_0 = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    a = float(schedule.alpha_bar[-1])
    expected = [
        sum(0.5 * (a * x * x + (1 - a) - 1 - math.log(1 - a)) for x in row) for row in x_0.tolist()
    ]
    assert prior_kl(x_0, schedule).tolist() == pytest.approx(expected)


def test_matching_guess_and_variance_cost_nothing():
    schedule = linear(10)
    x_0, x_t = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1, 5, 9])
    assert step_kl(x_0, x_t, x_0, t, schedule).abs().max() < 1e-12
    assert step_kl(x_0, x_t, x_0 + 1, t, schedule).min() > 0
    assert step_kl(x_0, x_t, x_0, t, schedule, variance="fixed_large").min() > 0
    with pytest.raises(ValueError, match="decoder"):
        step_kl(x_0, x_t, x_0, torch.tensor([0, 1, 2]), schedule)
    with pytest.raises(UserError, match="fixed_small"):
        step_kl(x_0, x_t, x_0, t, schedule, variance="fixed_smal")


@pytest.mark.parametrize("std", [0.001, 0.01, 0.3, 3.0])
def test_the_256_levels_of_the_discrete_decoder_have_probability_one(std):
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1.0).reshape(256, 1)
    for centre in (-1.2, -0.4, 0.0031, 1.0):
        nats = discrete_decoder_nll(levels, torch.full_like(levels, centre), std**2)
        assert float(torch.exp(-nats).sum()) == pytest.approx(1.0, abs=1e-9)
        assert bool(torch.isfinite(nats).all())


def test_decoder_terms_agree_where_a_level_is_narrow():
    x_0 = torch.tensor([[0.2], [-0.6]], dtype=torch.float64)
    mean = x_0 + 0.05
    discrete = discrete_decoder_nll(x_0, mean, 0.3**2)
    density = gaussian_decoder_nll(x_0, mean, 0.3**2)
    torch.testing.assert_close(discrete, density - math.log(2 / 255), rtol=1e-4, atol=0)
    expected = -torch.distributions.Normal(mean, 0.3).log_prob(x_0)[:, 0]
    torch.testing.assert_close(density, expected)


def test_bits_per_dimension():
    assert float(bits_per_dimension(torch.tensor(8 * math.log(2.0)), 4)) == pytest.approx(2.0)
