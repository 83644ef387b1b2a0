"""What DDPM and DDIM promise beyond one formula: limits, identities, refusals."""

import math

import pytest
import torch
from known_answers import TWO_PEAKS, normals, walk

from latentdiff.diffusion.noise_schedule import from_betas, scaled_linear
from latentdiff.diffusion.prediction import x_0_to_posterior_mean
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError
from latentdiff.schedulers.base import Bounds, Grid
from latentdiff.schedulers.ddim import DDIM, DDIMInverse, largest_eta
from latentdiff.schedulers.ddpm import DDPM

SCHEDULE = scaled_linear()
FIVE = Grid(num_inference_steps=5)
GENERATOR = torch.Generator().manual_seed(0)
X, SAID, NOISE = torch.randn(3, 2, 4, 5, 5, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "quadratic"])
def test_ddim_at_eta_one_is_ddpm_with_the_small_variance(spacing):
    grid = Grid(num_inference_steps=20, spacing=spacing)
    ddpm, ddim = DDPM(SCHEDULE, grid), DDIM(SCHEDULE, grid, eta=1.0)
    for step in ddpm.grid():
        assert ddpm.needs_noise(step) == ddim.needs_noise(step)
        a, b = ddpm.step(SAID, X, step, NOISE), ddim.step(SAID, X, step, NOISE)
        torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(a.x_0, b.x_0)


def test_the_sigma_hat_variant_is_ddpm_with_the_large_variance():
    grid = Grid(num_inference_steps=20, spacing="trailing")
    ddpm = DDPM(SCHEDULE, grid, variance="fixed_large")
    hat = DDIM(SCHEDULE, grid, eta=1.0, sigma_hat=True)
    for step in ddpm.grid():
        assert ddpm.needs_noise(step) == hat.needs_noise(step) == (step.t_prev >= 0)
        a, b = ddpm.step(SAID, X, step, NOISE), hat.step(SAID, X, step, NOISE)
        torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9)
    with pytest.raises(UserError, match="eta 1 alone"):
        DDIM(SCHEDULE, grid, eta=0.5, sigma_hat=True)


def test_variance_zero_walks_along_the_posterior_means():
    ddpm = DDPM(SCHEDULE, Grid(num_inference_steps=5, spacing="trailing"), variance="zero")
    for step in ddpm.grid():
        assert not ddpm.needs_noise(step)
        result = ddpm.step(SAID, X, step)
        a, a_prev = ddpm.levels(step)
        torch.testing.assert_close(result.x, x_0_to_posterior_mean(result.x_0, X, a, a_prev))


@pytest.mark.parametrize(
    ("n", "spacing", "offset", "largest"),
    [(10, "leading", 1, 1.007), (50, "leading", 1, 1.046), (50, "trailing", 0, 1.372)],
)
def test_eta_reaches_the_largest_value_of_its_grid_and_not_beyond(n, spacing, offset, largest):
    grid = Grid(num_inference_steps=n, spacing=spacing, steps_offset=offset)
    bound = largest_eta(SCHEDULE, DDIM(SCHEDULE, grid).grid())
    assert bound == pytest.approx(largest, abs=5e-4)
    at_most = DDIM(SCHEDULE, grid, eta=bound)
    made = walk(at_most, TWO_PEAKS, normals(64), torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(made).all())
    with pytest.raises(UserError) as error:
        DDIM(SCHEDULE, grid, eta=bound + 1e-4)
    named = float(str(error.value).split("…")[1].split()[0])
    assert bound - 1e-6 <= named <= bound
    DDIM(SCHEDULE, grid, eta=named)
    for eta in (-0.1, float("nan")):
        with pytest.raises(UserError, match="eta"):
            DDIM(SCHEDULE, grid, eta=eta)


def test_a_larger_eta_would_have_been_nan_in_diffusers():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    theirs.set_timesteps(10)
    made = theirs.step(SAID, 100, X, eta=1.01, variance_noise=NOISE).prev_sample
    assert bool(torch.isnan(made).all())


@pytest.mark.parametrize("cls", [DDPM, DDIM, DDIMInverse])
def test_eps_prediction_under_zero_terminal_snr_is_refused(cls):
    rescaled = SCHEDULE.rescale_zero_terminal_snr()
    grid = Grid(num_inference_steps=10, spacing="trailing")
    with pytest.raises(UserError, match="zero terminal SNR"):
        cls(rescaled, grid)
    for kind in ("sample", "v_prediction", "posterior_mean"):
        scheduler = cls(rescaled, grid, prediction_type=kind)
        for step in scheduler.grid():
            assert bool(torch.isfinite(scheduler.step(SAID, X, step, NOISE).x).all())


@pytest.mark.parametrize("cls", [DDPM, DDIM])
def test_a_posterior_mean_network_is_read_at_its_training_step(cls):
    """It was trained on neighbours t, t − 1, whatever grid it is sampled on."""
    scheduler = cls(
        SCHEDULE,
        Grid(num_inference_steps=10, spacing="trailing"),
        prediction_type="posterior_mean",
    )
    plain = cls(
        SCHEDULE, Grid(num_inference_steps=10, spacing="trailing"), prediction_type="sample"
    )
    for step in scheduler.grid():
        a, before = SCHEDULE.alpha_bar[step.t], SCHEDULE.alpha_bar_prev[step.t]
        said = x_0_to_posterior_mean(SAID, X, a, before)
        a, b = scheduler.step(said, X, step, NOISE), plain.step(SAID, X, step, NOISE)
        torch.testing.assert_close(a.x, b.x, rtol=1e-7, atol=1e-7)


def test_the_result_has_the_samples_dtype_whatever_the_prediction_has():
    ddim = DDIM(SCHEDULE, Grid(num_inference_steps=10))
    step = ddim.grid()[3]
    result = ddim.step(SAID.bfloat16(), X.float(), step)
    assert result.x.dtype == result.x_0.dtype == torch.float32
    expected = ddim.step(SAID.bfloat16().double(), X.float().double(), step)
    assert torch.equal(result.x, expected.x.float())


def test_the_last_x_is_the_clean_data_it_aimed_at():
    for scheduler in (
        DDPM(SCHEDULE, Grid(num_inference_steps=10), variance="fixed_large"),
        DDIM(SCHEDULE, Grid(num_inference_steps=10), eta=0.7),
    ):
        last = scheduler.grid()[-1]
        assert not scheduler.needs_noise(last)
        result = scheduler.step(SAID, X, last)
        torch.testing.assert_close(result.x, result.x_0)


def test_no_way_to_go_leaves_the_sample_where_it_is():
    """t = 0 of a checkpoint whose own final ᾱ is ᾱ_0."""
    schedule = SCHEDULE.with_final_alpha_bar(float(SCHEDULE.alpha_bar[0]))
    for scheduler in (
        DDIM(schedule, Grid(num_inference_steps=10)),
        DDIM(schedule, Grid(num_inference_steps=10), eta=1.0),
        DDPM(schedule, Grid(num_inference_steps=10)),
    ):
        step = scheduler.grid()[-1]
        assert (step.t, step.t_prev) == (0, -1)
        torch.testing.assert_close(scheduler.step(SAID, X, step, NOISE).x, X)


def test_missing_or_misshapen_noise_is_noticed():
    ddpm = DDPM(SCHEDULE, Grid(num_inference_steps=10))
    step = ddpm.grid()[0]
    assert ddpm.needs_noise(step)
    with pytest.raises(ValueError, match="needs_noise"):
        ddpm.step(SAID, X, step)
    with pytest.raises(ValueError, match="noise has shape"):
        ddpm.step(SAID, X, step, NOISE[:1])
    with pytest.raises(ValueError, match="prediction has shape"):
        ddpm.step(SAID[:1], X, step, NOISE)


def test_any_pair_can_be_stepped():
    """A step is a pair of levels, not a place in a list: 800 → 100 → data lands where DDIM says."""
    ddim = DDIM(SCHEDULE, Grid(timesteps=[999]))
    step = Step(800, 100)
    a, a_prev = float(SCHEDULE.alpha_bar[800]), float(SCHEDULE.alpha_bar[100])
    x_0 = (X - math.sqrt(1 - a) * SAID) / math.sqrt(a)
    expected = math.sqrt(a_prev) * x_0 + math.sqrt(1 - a_prev) * SAID
    torch.testing.assert_close(ddim.step(SAID, X, step).x, expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (lambda: {"grid": Grid()}, "either"),
        (lambda: {"grid": Grid(num_inference_steps=5, timesteps=[3])}, "either"),
        (lambda: {"grid": FIVE, "variance": "fixed_smal"}, "fixed_small"),
        (lambda: {"grid": FIVE, "prediction_type": "velocity"}, "prediction type"),
        (lambda: {"grid": FIVE, "bounds": Bounds(clip=0.0)}, "above 0"),
        (lambda: {"grid": FIVE, "bounds": Bounds(quantile=0.9, largest=0.5)}, "at least 1"),
        (lambda: {"grid": FIVE, "bounds": Bounds(quantile=1.5)}, r"\(0, 1\]"),
        (lambda: {"grid": Grid(num_inference_steps=1001)}, "1 … 1000"),
        (lambda: {"grid": Grid(timesteps=[1000, 3])}, "lie in"),
    ],
)
def test_settings_that_cannot_be_sampled_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        DDPM(SCHEDULE, **settings())


def test_a_schedule_of_one_step_can_be_sampled():
    one = from_betas([0.5])
    for cls in (DDPM, DDIM):
        scheduler = cls(one, Grid(num_inference_steps=1))
        result = scheduler.step(SAID, X, scheduler.grid()[0])
        torch.testing.assert_close(result.x, (X - math.sqrt(0.5) * SAID) / math.sqrt(0.5))
