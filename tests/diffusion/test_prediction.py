"""Every conversion against the definitions, written out in numpy."""

import numpy as np
import pytest
import torch

from latentdiff.diffusion import prediction as p
from latentdiff.diffusion.noise_schedule import scaled_linear
from latentdiff.errors import UserError

SCHEDULE = scaled_linear()


@pytest.fixture
def truth():
    """x_0, ε and everything they imply at three timesteps, in float64 numpy."""
    generator = np.random.default_rng(0)
    t = np.array([1, 500, 999])
    a = SCHEDULE.alpha_bar.numpy()[t].reshape(3, 1, 1, 1)
    a_prev = SCHEDULE.alpha_bar.numpy()[t - 1].reshape(3, 1, 1, 1)
    x_0 = generator.standard_normal((3, 2, 4, 4))
    eps = generator.standard_normal((3, 2, 4, 4))
    x_t = np.sqrt(a) * x_0 + np.sqrt(1 - a) * eps
    beta = 1 - a / a_prev
    # Bayes' rule for two Gaussians about x_{t-1}: the precisions add.
    precision = (1 - beta) / beta + 1 / (1 - a_prev)
    mean = (np.sqrt(1 - beta) / beta * x_t + np.sqrt(a_prev) / (1 - a_prev) * x_0) / precision
    values = {
        "x_0": x_0,
        "eps": eps,
        "x_t": x_t,
        "v": np.sqrt(a) * eps - np.sqrt(1 - a) * x_0,
        "mean": mean,
        "a": a.reshape(3),
        "a_prev": a_prev.reshape(3),
    }
    return {name: torch.from_numpy(value) for name, value in values.items()}


CONVERSIONS = [
    (p.eps_to_x_0, "eps", "x_0", False),
    (p.x_0_to_eps, "x_0", "eps", False),
    (p.v_to_x_0, "v", "x_0", False),
    (p.v_to_eps, "v", "eps", False),
    (p.x_0_to_v, "x_0", "v", False),
    (p.eps_to_v, "eps", "v", False),
    (p.x_0_to_posterior_mean, "x_0", "mean", True),
    (p.posterior_mean_to_x_0, "mean", "x_0", True),
    (p.eps_to_posterior_mean, "eps", "mean", True),
    (p.posterior_mean_to_eps, "mean", "eps", True),
]


@pytest.mark.parametrize(
    ("function", "given", "wanted", "two_levels"),
    CONVERSIONS,
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_conversion_recovers_what_the_definition_says(truth, function, given, wanted, two_levels):
    levels = (truth["a"], truth["a_prev"]) if two_levels else (truth["a"],)
    result = function(truth[given], truth["x_t"], *levels)
    # Turning x_{t-1}'s mean back into x_0 or ε divides by about β_t.
    torch.testing.assert_close(result, truth[wanted], rtol=1e-8, atol=1e-8)


def test_v_from_x_0_and_eps(truth):
    result = p.x_0_and_eps_to_v(truth["x_0"], truth["eps"], truth["a"])
    torch.testing.assert_close(result, truth["v"], rtol=1e-12, atol=1e-12)


KINDS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v", "posterior_mean": "mean"}


@pytest.mark.parametrize("kind", p.PREDICTION_TYPES)
def test_any_kind_of_prediction_implies_the_same_x_0_and_eps(truth, kind):
    arguments = {"prediction_type": kind, "alpha_bar_prev": truth["a_prev"]}
    said = truth[KINDS[kind]]
    x_0 = p.to_x_0(said, truth["x_t"], truth["a"], **arguments)
    eps = p.to_eps(said, truth["x_t"], truth["a"], **arguments)
    torch.testing.assert_close(x_0, truth["x_0"], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(eps, truth["eps"], rtol=1e-8, atol=1e-8)


def test_a_conversion_is_combined_in_float64_and_cast_last(truth):
    said, x_t = truth["eps"].float(), truth["x_t"].float()
    exact = p.eps_to_x_0(said.double(), x_t.double(), truth["a"])
    result = p.eps_to_x_0(said, x_t, truth["a"])
    assert result.dtype == torch.float32
    assert torch.equal(result, exact.float())


def test_one_level_for_the_whole_batch_equals_a_level_per_sample(truth):
    level = float(truth["a"][1])
    whole = p.v_to_eps(truth["v"], truth["x_t"], level)
    each = p.v_to_eps(truth["v"], truth["x_t"], torch.full((3,), level, dtype=torch.float64))
    assert torch.equal(whole, each)


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "posterior_mean"])
def test_at_zero_snr_every_kind_but_epsilon_still_gives_finite_x_0(kind):
    x_t = torch.randn(1, 2, generator=torch.Generator().manual_seed(0))
    x_0 = p.to_x_0(0.3 * x_t, x_t, 0.0, prediction_type=kind, alpha_bar_prev=0.01)
    eps = p.to_eps(0.3 * x_t, x_t, 0.0, prediction_type=kind, alpha_bar_prev=0.01)
    assert bool(torch.isfinite(x_0).all())
    torch.testing.assert_close(eps, x_t)


def test_mistakes_are_named():
    x = torch.zeros(1, 2)
    with pytest.raises(UserError, match="did you mean 'epsilon'"):
        p.to_x_0(x, x, 0.5, prediction_type="epsilom")
    with pytest.raises(ValueError, match="alpha_bar_prev"):
        p.to_x_0(x, x, 0.5, prediction_type="posterior_mean")
    with pytest.raises(ValueError, match="shapes differ"):
        p.eps_to_x_0(torch.zeros(1, 3), x, 0.5)
