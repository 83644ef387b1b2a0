"""Samplers against the truth: data whose ε* has a closed form, no network."""

import itertools
import math

import pytest
import torch
from known_answers import GAUSSIAN, TWO_PEAKS, Mixture, normals, walk

from latentdiff.diffusion.noise_schedule import linear, scaled_linear
from latentdiff.diffusion.timesteps import with_strength
from latentdiff.schedulers.base import Grid
from latentdiff.schedulers.ddim import DDIM, DDIMInverse
from latentdiff.schedulers.ddpm import DDPM

SCHEDULE = scaled_linear()
START = float(SCHEDULE.alpha_bar[-1])
Z = normals(256)


@pytest.mark.parametrize("data", [GAUSSIAN, TWO_PEAKS], ids=["gaussian", "two peaks"])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_ddim_converges_to_the_probability_flow_with_order_one(data, spacing):
    truth = data.transport(Z, START, 1.0)
    errors = []
    for n in (25, 50, 100, 200):
        made = walk(DDIM(SCHEDULE, Grid(num_inference_steps=n, spacing=spacing)), data, Z)
        errors.append(float((made - truth).abs().mean()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(0.75 < order < 1.25 for order in orders), orders
    assert errors[-1] < 0.01


def test_ddim_on_a_gaussian_is_the_product_of_its_steps():
    """DDIM is linear there: each step maps (mean, std) to a number that can be written down."""
    scheduler = DDIM(SCHEDULE, Grid(num_inference_steps=7, spacing="quadratic"))
    made = walk(scheduler, GAUSSIAN, Z)
    slope, offset = 1.0, 0.0
    for step in scheduler.grid():
        a, a_prev = scheduler.levels(step)
        gain = math.sqrt(1 - a) / (a * 0.25 + 1 - a)  # ε* = gain·(x − √a·0.6)
        eps = (gain * slope, gain * (offset - math.sqrt(a) * 0.6))
        x_0 = ((slope - math.sqrt(1 - a) * eps[0]) / math.sqrt(a),)
        x_0 += ((offset - math.sqrt(1 - a) * eps[1]) / math.sqrt(a),)
        slope = math.sqrt(a_prev) * x_0[0] + math.sqrt(1 - a_prev) * eps[0]
        offset = math.sqrt(a_prev) * x_0[1] + math.sqrt(1 - a_prev) * eps[1]
    torch.testing.assert_close(made, slope * Z + offset, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_the_kind_of_prediction_does_not_change_the_path(kind):
    for cls in (DDIM, DDIMInverse):
        grid = Grid(num_inference_steps=12, spacing="trailing")
        of_eps = walk(cls(SCHEDULE, grid), TWO_PEAKS, Z)
        other = cls(SCHEDULE, grid, prediction_type=kind)
        torch.testing.assert_close(walk(other, TWO_PEAKS, Z), of_eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("data", [GAUSSIAN, TWO_PEAKS], ids=["gaussian", "two peaks"])
def test_the_inverse_leads_data_back_to_its_noise_with_order_one(data):
    picture = data.transport(Z, START, 1.0)
    errors = []
    for n in (125, 250, 500):
        back = walk(
            DDIMInverse(SCHEDULE, Grid(num_inference_steps=n, spacing="trailing")), data, picture
        )
        errors.append(float((back - Z).abs().mean()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(0.6 < order < 1.3 for order in orders), orders
    assert errors[-1] < 0.02


def test_there_and_back_again_closes_with_more_steps():
    gaps = []
    for n in (20, 80, 320):
        grid = Grid(num_inference_steps=n, spacing="trailing")
        noise = walk(DDIMInverse(SCHEDULE, grid), TWO_PEAKS, Z)
        again = walk(DDIM(SCHEDULE, grid), TWO_PEAKS, noise)
        gaps.append(float((again - Z).abs().mean()))
    assert gaps[0] > 2.5 * gaps[1] > 2.5 * 2.5 * gaps[2]


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("data", [GAUSSIAN, TWO_PEAKS], ids=["gaussian", "two peaks"])
def test_ddpm_samples_have_the_datas_mean_and_variance(variance, data):
    count = 40_000
    generator = torch.Generator().manual_seed(0)
    scheduler = DDPM(SCHEDULE, Grid(num_inference_steps=500, spacing="trailing"), variance=variance)
    x = torch.randn(1, 1, 1, count, generator=generator)
    made = walk(scheduler, data, x, generator)
    mean, var = data.mean_and_variance()
    assert float(made.mean()) == pytest.approx(mean, abs=4 * math.sqrt(var / count) + 0.005)
    assert float(made.var()) == pytest.approx(var, rel=0.03)


def ddpm_moments(scheduler, mean, cov):
    """Mean and covariance of the whole DDPM chain for N(mean, cov) data: it is linear."""
    eye = torch.eye(len(mean), dtype=torch.float64)
    m, c = torch.zeros_like(mean), eye.clone()
    for step in scheduler.grid():
        a, a_prev = scheduler.levels(step)
        gain = math.sqrt(a) * cov @ torch.linalg.inv(a * cov + (1 - a) * eye)
        alpha = a / a_prev
        of_x_0 = math.sqrt(a_prev) * (1 - alpha) / (1 - a)
        of_x = math.sqrt(alpha) * (1 - a_prev) / (1 - a)
        slope = of_x_0 * gain + of_x * eye
        m = slope @ m + of_x_0 * (mean - math.sqrt(a) * gain @ mean)
        c = slope @ c @ slope.T + scheduler.sigma(step) ** 2 * eye
    return m, c


def test_ddpm_draws_a_correlated_gaussian():
    mean = torch.tensor([0.5, -0.3], dtype=torch.float64)
    cov = torch.tensor([[0.8, 0.5], [0.5, 0.6]], dtype=torch.float64)
    schedule = linear(1000)
    scheduler = DDPM(
        schedule, Grid(num_inference_steps=200, spacing="trailing"), variance="fixed_large"
    )
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60_000, 2, generator=generator, dtype=torch.float64)
    for step in scheduler.grid():
        a, _ = scheduler.levels(step)
        total = a * cov + (1 - a) * torch.eye(2, dtype=torch.float64)
        eps = math.sqrt(1 - a) * (x - math.sqrt(a) * mean) @ torch.linalg.inv(total)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = scheduler.step(eps, x, step, noise if scheduler.needs_noise(step) else None).x
    m, c = ddpm_moments(scheduler, mean, cov)
    torch.testing.assert_close(x.mean(0), m, atol=0.015, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), c, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), cov, atol=0.04, rtol=0)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_converges_to_the_covariance_with_order_one(variance):
    mean = torch.tensor([0.5, -0.3], dtype=torch.float64)
    cov = torch.tensor([[0.8, 0.5], [0.5, 0.6]], dtype=torch.float64)
    errors = []
    for n in (50, 100, 200, 400):
        scheduler = DDPM(
            linear(1000), Grid(num_inference_steps=n, spacing="trailing"), variance=variance
        )
        _m, c = ddpm_moments(scheduler, mean, cov)
        errors.append(float((c - cov).abs().max()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(0.6 < order < 1.4 for order in orders), orders


@pytest.mark.parametrize("n", [1, 5, 40])
def test_fixed_large_is_exact_for_standard_normal_data(n):
    """Then x_t is N(0, 1) at every t and the reverse step's variance is β_t (DDPM section 3.2)."""
    scheduler = DDPM(
        SCHEDULE, Grid(num_inference_steps=n, spacing="trailing"), variance="fixed_large"
    )
    for step in scheduler.grid()[:-1]:
        a, a_prev = scheduler.levels(step)
        slope = math.sqrt(a / a_prev)  # E[x_{t-1} | x_t] = √α·x_t
        assert slope**2 + scheduler.sigma(step) ** 2 == pytest.approx(1.0, rel=1e-12)
        x = Z
        moved = scheduler.step(math.sqrt(1 - a) * x, x, step, torch.zeros_like(x)).x
        torch.testing.assert_close(moved, slope * x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_fixed_small_is_exact_for_data_that_is_one_point(n):
    """Then the posterior given x_0 is the reverse step itself (DDPM section 3.2)."""
    point = Mixture((0.6,), (0.0,), (1.0,))
    scheduler = DDPM(SCHEDULE, Grid(num_inference_steps=n, spacing="trailing"))
    generator = torch.Generator().manual_seed(0)
    grid = scheduler.grid()
    made = walk(scheduler, point, Z, generator)
    torch.testing.assert_close(made, torch.full_like(Z, 0.6), rtol=1e-9, atol=1e-9)
    if n > 1:
        count = 100_000
        x = torch.randn(1, 1, 1, count, generator=generator, dtype=torch.float64)
        x = math.sqrt(START) * 0.6 + math.sqrt(1 - START) * x
        x = walk(scheduler, point, x, generator, steps=grid[: n // 2])
        level = scheduler.levels(grid[n // 2 - 1])[1]
        assert float(x.mean()) == pytest.approx(math.sqrt(level) * 0.6, abs=0.01)
        assert float(x.var()) == pytest.approx(1 - level, rel=0.02)


def test_a_cut_grid_takes_half_noised_data_to_the_same_place():
    steps = DDIM(SCHEDULE, Grid(num_inference_steps=400, spacing="trailing")).grid()
    scheduler = DDIM(SCHEDULE, Grid(num_inference_steps=400, spacing="trailing"))
    kept = with_strength(steps, 0.4)
    level = scheduler.levels(kept[0])[0]
    x = TWO_PEAKS.transport(Z, START, level)
    made = walk(scheduler, TWO_PEAKS, x, steps=kept)
    truth = TWO_PEAKS.transport(Z, START, 1.0)
    assert float((made - truth).abs().mean()) < 0.005
