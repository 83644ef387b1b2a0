"""One network as a score: Langevin, the SDE and the probability flow, against the truth."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from known_answers import GAUSSIAN, TWO_PEAKS, Mixture, normals, walk

from latentdiff.diffusion.noise_schedule import scaled_linear
from latentdiff.diffusion.score import angles
from latentdiff.diffusion.timesteps import Step, grid
from latentdiff.errors import UserError
from latentdiff.sampling import denoise
from latentdiff.schedulers import interop
from latentdiff.schedulers.base import Grid
from latentdiff.schedulers.ddim import DDIM
from latentdiff.schedulers.scores.adaptive_flow import AdaptiveFlow
from latentdiff.schedulers.scores.annealed_langevin import AnnealedLangevin
from latentdiff.schedulers.scores.probability_flow import ProbabilityFlow
from latentdiff.schedulers.scores.readings import READINGS
from latentdiff.schedulers.scores.vp_sde import VPSDE

SCHEDULE = scaled_linear()
START, CLEANEST = float(SCHEDULE.alpha_bar[-1]), float(SCHEDULE.alpha_bar[0])
ANGLES = np.asarray(angles(SCHEDULE))
Z = normals(256)
BOTH = pytest.mark.parametrize("data", [GAUSSIAN, TWO_PEAKS], ids=["gaussian", "two peaks"])


def exact(data, kind="epsilon"):
    """The best denoiser for `data`, told any t between two as well."""

    def denoiser(x, t, context):
        angle = np.interp(float(t), np.arange(len(ANGLES)), ANGLES)
        return data.predict(x, math.cos(angle) ** 2, kind)

    return denoiser


def in_the_loop(scheduler, data, x, generator=None, kind="epsilon"):
    """(the last sample, network calls) of latentdiff.sampling's loop."""
    context = torch.zeros(len(x), 1, 1)

    def noise():
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    steps = list(denoise(exact(data, kind), scheduler, x, context=context, noise=noise))
    return steps[-1].x, len(steps)


def moments(scheduler, data, *, first=(0.0, 1.0)):
    """Mean and variance of the whole walk for Gaussian data, where every step is x → a·x + b·z."""
    mean, var = first
    for step in scheduler.grid():
        level = float(SCHEDULE.alpha_bar[int(step.t)])

        def moved(x, z, step=step, level=level):
            x, z = torch.full((1, 1), x).double(), torch.full((1, 1), z).double()
            return float(scheduler.step(data.predict(x, level, "epsilon"), x, step, z).x)

        offset = moved(0.0, 0.0)
        slope, gain = moved(1.0, 0.0) - offset, moved(0.0, 1.0) - offset
        mean, var = slope * mean + offset, slope**2 * var + gain**2
    return mean, var


@BOTH
def test_heun_converges_to_the_probability_flow_with_order_two(data):
    truth = data.transport(Z, START, CLEANEST)
    errors = []
    for n in (10, 20, 40):
        scheduler = ProbabilityFlow(SCHEDULE, grid(1000, n, "linspace"))
        made = walk(scheduler, data, Z, steps=scheduler.grid()[:-1])
        errors.append(float((made - truth).abs().mean()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(1.7 < order < 2.3 for order in orders), orders


@BOTH
def test_heun_is_nearer_the_flow_than_ddim_with_as_many_calls(data):
    truth = data.transport(Z, START, 1.0)
    heun = ProbabilityFlow(SCHEDULE, grid(1000, 20, "linspace"))
    ddim = DDIM(SCHEDULE, Grid(num_inference_steps=39, spacing="linspace"))
    assert len(heun.grid()) == len(ddim.grid())
    gaps = [float((walk(s, data, Z) - truth).abs().mean()) for s in (heun, ddim)]
    assert gaps[0] < gaps[1] / 4


@BOTH
def test_the_adaptive_flow_keeps_its_tolerance_and_spends_more_on_a_smaller(data):
    truth = data.transport(Z, START, 1.0)
    errors, calls = [], []
    for tolerance in (0.1, 0.01, 0.001):
        scheduler = AdaptiveFlow(SCHEDULE, grid(1000, 100), tolerance=tolerance)
        start = data.transport(Z, START, float(SCHEDULE.alpha_bar[990]))
        made, spent = in_the_loop(scheduler, data, start)
        errors.append(float((made - truth).abs().mean()))
        calls.append(spent)
        assert errors[-1] < tolerance + 0.001
    assert errors[0] > errors[1]
    assert calls[0] < calls[1] < calls[2] < 60


def test_the_adaptive_flow_says_when_its_calls_are_spent():
    scheduler = AdaptiveFlow(SCHEDULE, grid(1000, 10, "trailing"), tolerance=1e-4)
    with pytest.raises(UserError, match="spent its 10 network calls and stands at t = "):
        in_the_loop(scheduler, TWO_PEAKS, Z)


def test_the_adaptive_flow_can_walk_twice_and_after_a_walk_that_was_stopped():
    scheduler = AdaptiveFlow(SCHEDULE, grid(1000, 60, "trailing"))
    first, _ = in_the_loop(scheduler, TWO_PEAKS, Z)
    stopped = denoise(exact(TWO_PEAKS), scheduler, Z, context=torch.zeros(1, 1, 1))
    for _ in range(4):
        next(stopped)
    assert torch.equal(in_the_loop(scheduler, TWO_PEAKS, Z)[0], first)


def test_the_adaptive_flow_refuses_to_be_steered():
    scheduler = AdaptiveFlow(SCHEDULE, grid(1000, 60, "trailing"))
    step = scheduler.grid()[0]
    result = scheduler.step(Z, Z, step)
    with pytest.raises(UserError, match="inpainting"):
        scheduler.step(Z, result.x + 0.1, result.then)


def test_the_adaptive_flow_starts_from_a_cut_grid():
    """Image-to-image starts half way: the first step's t is where the walk begins."""
    scheduler = AdaptiveFlow(SCHEDULE, grid(1000, 100, "trailing"), tolerance=0.001)
    kept = scheduler.grid()[60:]
    x = TWO_PEAKS.transport(Z, START, float(SCHEDULE.alpha_bar[int(kept[0].t)]))
    steps = denoise(exact(TWO_PEAKS), scheduler, x, context=torch.zeros(1, 1, 1), steps=kept)
    *_, last = steps
    truth = TWO_PEAKS.transport(Z, START, 1.0)
    assert float((last.x - truth).abs().mean()) < 0.003


@pytest.mark.parametrize("part", ["mean", "variance"])
def test_euler_maruyama_converges_to_the_datas_moments_with_weak_order_one(part):
    # From the noised data's own moments, for N(0, 1) is not quite what the data becomes.
    truth = GAUSSIAN.mean_and_variance()
    first = (math.sqrt(START) * truth[0], START * truth[1] + 1 - START)
    errors = []
    for n in (50, 100, 200, 400):
        scheduler = VPSDE(SCHEDULE, grid(1000, n, "linspace"))
        found = moments(scheduler, GAUSSIAN, first=first)
        errors.append(abs(found[part == "variance"] - truth[part == "variance"]))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors[:3])]
    assert all(0.6 < order < 1.5 for order in orders), (orders, errors)


def test_langevin_at_one_level_ends_with_its_known_bias():
    """x − c·(x − m) + √(2cV)·z has the variance V/(1 − c/2): of first order in the step."""
    t = 600
    level = float(SCHEDULE.alpha_bar[t])
    whole = level * 0.25 + 1 - level
    for step_size in (0.4, 0.2):
        steps = [Step(t, t, 0), Step(t, t, 1)]
        scheduler = AnnealedLangevin(SCHEDULE, steps, steps_per_level=200, step_size=step_size)
        scheduler._grid = tuple(s for s in scheduler.grid() if s.t_prev >= 0)
        mean, var = moments(scheduler, GAUSSIAN)
        c = step_size / 2 * (1 - level) / whole
        assert mean == pytest.approx(math.sqrt(level) * 0.6, rel=1e-6)
        assert var == pytest.approx(whole / (1 - c / 2), rel=1e-6)


def test_annealed_langevin_nears_the_data_with_more_levels_and_more_steps_on_each():
    truth = GAUSSIAN.mean_and_variance()
    gaps = []
    for levels, per_level in ((15, 5), (30, 10), (60, 20)):
        steps = grid(1000, levels, "linspace")
        mean, var = moments(AnnealedLangevin(SCHEDULE, steps, steps_per_level=per_level), GAUSSIAN)
        gaps.append(abs(var - truth[1]))
        assert mean == pytest.approx(truth[0], abs=0.01)
    assert gaps[0] > 1.5 * gaps[1] > 1.5 * 1.5 * gaps[2]


@BOTH
def test_a_corrector_keeps_samples_that_are_right(data):
    t, count = 400, 20_000
    level = float(SCHEDULE.alpha_bar[t])
    generator = torch.Generator().manual_seed(0)
    x = data.transport(torch.randn(count, 1, generator=generator).double(), 1e-9, level)
    scheduler = VPSDE(SCHEDULE, grid(1000, 10), corrector_steps=1)
    x = x.reshape(-1, 50)  # the step's size comes from norms, over a sample's elements
    for _ in range(10):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = scheduler.step(data.predict(x, level, "epsilon"), x, Step(t, t), noise).x
    gap = (data.cdf(x.flatten().sort().values, level) - (torch.arange(count) + 0.5) / count).abs()
    assert float(gap.max()) < 1.63 / math.sqrt(count) + 0.01


def test_a_corrector_measures_every_sample_alone():
    scheduler = VPSDE(SCHEDULE, grid(1000, 10), corrector_steps=1)
    x, said, noise = torch.randn(3, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    both = scheduler.step(said, x, Step(500, 500), noise).x
    alone = scheduler.step(said[:1], x[:1], Step(500, 500), noise[:1]).x
    assert torch.equal(both[:1], alone)


CONFIG = interop.SchedulerConfig(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    timestep_spacing="trailing",
)


@pytest.mark.parametrize("name", ["ddpm", "ddim", *READINGS])
def test_every_reading_of_one_network_draws_the_same_two_peaks(name):
    count, calls = 4000, 150
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count // 50, 1, 5, 10, generator=generator, dtype=torch.float64)
    scheduler = interop.build(name, CONFIG, calls)
    made, _ = in_the_loop(scheduler, TWO_PEAKS, x, generator)
    ordered = made.flatten().sort().values
    gap = (TWO_PEAKS.cdf(ordered, 1.0) - (torch.arange(count) + 0.5) / count).abs().max()
    # 1.63/√n is what chance alone exceeds once in a hundred (Kolmogorov); Langevin is biased.
    assert float(gap) < 1.63 / math.sqrt(count) + (0.04 if "langevin" in name else 0.01)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
@pytest.mark.parametrize("name", READINGS)
def test_the_kind_of_prediction_does_not_change_the_path(name, kind):
    paths = []
    for said in ("epsilon", kind):
        config = dataclasses.replace(CONFIG, prediction_type=said)
        generator = torch.Generator().manual_seed(0)
        scheduler = interop.build(name, config, 40)
        paths.append(in_the_loop(scheduler, TWO_PEAKS, Z, generator, said)[0])
    torch.testing.assert_close(paths[0], paths[1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["probability-flow", "probability-flow-adaptive"])
def test_the_flow_walks_from_zero_terminal_snr(name):
    config = dataclasses.replace(
        CONFIG, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    point = Mixture((0.6,), (0.0,), (1.0,))
    scheduler = interop.build(name, config, 40)
    known = np.asarray(angles(config.noise_schedule()))

    def denoiser(x, t, context):
        angle = np.interp(float(t), np.arange(len(known)), known)
        return (math.cos(angle) * x - 0.6) / math.sin(angle)  # the v of data that is one point

    *_, last = denoise(denoiser, scheduler, Z, context=torch.zeros(1, 1, 1))
    torch.testing.assert_close(last.x, torch.full_like(Z, point.means[0]), rtol=0, atol=0.02)


def test_the_sde_refuses_zero_terminal_snr_and_eps_with_it():
    config = dataclasses.replace(CONFIG, rescale_betas_zero_snr=True)
    for name in READINGS:
        with pytest.raises(UserError, match="zero terminal SNR"):
            interop.build(name, config, 10)
    config = dataclasses.replace(config, prediction_type="v_prediction")
    with pytest.raises(UserError, match="zero terminal SNR"):
        interop.build("vp-sde", config, 10)


def test_calls_are_counted_as_promised():
    counts = {name: len(interop.build(name, CONFIG, 10).grid()) for name in READINGS}
    assert counts == {
        "annealed-langevin": 51,
        "vp-sde": 10,
        "vp-sde-pc": 19,
        "probability-flow": 19,
        "probability-flow-adaptive": 10,
    }


def test_a_grid_cut_between_the_halves_of_a_step_goes_on_from_the_sample_it_is_given():
    scheduler = ProbabilityFlow(SCHEDULE, grid(1000, 10))
    second = scheduler.grid()[5]
    assert second.t == second.t_prev
    assert torch.equal(scheduler.step(Z, Z, second).x, Z)


def test_arguments_without_a_use_and_bad_settings_are_refused():
    with pytest.raises(UserError, match="no use for eta"):
        interop.build("vp-sde", CONFIG, 10, eta=0.5)
    with pytest.raises(UserError, match="no use for variance"):
        interop.build("probability-flow", CONFIG, 10, variance="fixed_large")
    with pytest.raises(UserError, match="probability-flow"):
        interop.build("probabilty-flow", CONFIG, 10)
    steps = grid(1000, 5)
    with pytest.raises(UserError, match="diverge"):
        AnnealedLangevin(SCHEDULE, steps, step_size=4.0)
    with pytest.raises(UserError, match="tolerance"):
        AdaptiveFlow(SCHEDULE, steps, tolerance=0.0)
    with pytest.raises(UserError, match="posterior_mean"):
        AdaptiveFlow(SCHEDULE, steps, prediction_type="posterior_mean")
    with pytest.raises(UserError, match="corrector_steps"):
        VPSDE(SCHEDULE, steps, corrector_steps=-1)
