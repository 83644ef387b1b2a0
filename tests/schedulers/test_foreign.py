"""diffusers' own schedulers in our loop: known answers, diffusers' own results, our noise."""

import threading

import diffusers
import pytest
import torch
from known_answers import GAUSSIAN, TWO_PEAKS, level_at, normals, walk

from latentdiff.diffusion.timesteps import with_strength
from latentdiff.errors import UserError
from latentdiff.schedulers import interop
from latentdiff.schedulers.foreign import _GivenNoise
from latentdiff.schedulers.scheduler_config import SchedulerConfig

CONFIG = SchedulerConfig(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    timestep_spacing="trailing",
    steps_offset=1,
)
SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
Z = normals(128)
START = float(CONFIG.noise_schedule().alpha_bar[-1])
DETERMINISTIC = {
    "euler": 0.035,
    "heun": 0.02,
    "dpmsolver++": 0.02,
    "dpmsolver-singlestep": 0.025,
    "unipc": 0.02,
    "deis": 0.008,
    "pndm": 0.01,
    "kdpm2": 0.02,
}
STOCHASTIC = ("euler-ancestral", "dpmsolver++-sde", "kdpm2-ancestral", "sa-solver")


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("data", [GAUSSIAN, TWO_PEAKS], ids=["gaussian", "two peaks"])
def test_a_deterministic_sampler_follows_the_probability_flow(name, data):
    scheduler = interop.build(name, CONFIG, 40)
    assert not any(map(scheduler.needs_noise, scheduler.grid()))
    made = walk(scheduler, data, Z.float())
    truth = data.transport(Z, START, 1.0)
    assert float((made - truth).abs().mean()) < DETERMINISTIC[name]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_stochastic_sampler_draws_the_datas_mean_and_variance(name):
    scheduler = interop.build(name, CONFIG, 60)
    assert any(map(scheduler.needs_noise, scheduler.grid()))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 1, 10_000, generator=generator)
    made = walk(scheduler, TWO_PEAKS, x, generator)
    mean, var = TWO_PEAKS.mean_and_variance()
    assert float(made.mean()) == pytest.approx(mean, abs=0.05)
    assert float(made.var()) == pytest.approx(var, rel=0.1)


def their_own_loop(theirs, data, x, generator):
    """The loop of diffusers' pipelines."""
    schedule = CONFIG.noise_schedule()
    x = x * theirs.init_noise_sigma
    takes_generator = "generator" in theirs.step.__code__.co_varnames
    for t in theirs.timesteps:
        shown = theirs.scale_model_input(x, t)
        said = data.predict(shown, level_at(schedule, float(t)), "epsilon")
        extra = {"generator": generator} if takes_generator else {}
        x = theirs.step(said, t, x, **extra).prev_sample
    return x


@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC, "lcm", "tcd"])
@pytest.mark.parametrize("source", [SD15, None], ids=["sd15 folder", "own config"])
def test_the_walk_is_diffusers_own_bit_for_bit_with_the_same_noise(name, source):
    config = CONFIG if source is None else interop.read_config(source)
    class_name, overrides = interop.ALIASES[name]
    written = SD15 if source is not None else interop.write_config(CONFIG)
    theirs = getattr(diffusers, class_name).from_config(written, **overrides)
    theirs.set_timesteps(12)
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    expected = their_own_loop(theirs, TWO_PEAKS, x, torch.Generator().manual_seed(4))
    scheduler = interop.build(name, config, 12)
    made = walk(scheduler, TWO_PEAKS, x, torch.Generator().manual_seed(4))
    assert torch.equal(made, expected)


@pytest.mark.parametrize("name", ["dpmsolver++", "unipc", "heun", "pndm", "euler-ancestral"])
def test_one_object_serves_many_walks_and_forgets_an_abandoned_one(name):
    scheduler = interop.build(name, CONFIG, 10)
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    first = walk(scheduler, GAUSSIAN, x, torch.Generator().manual_seed(4))
    walk(scheduler, TWO_PEAKS, x, torch.Generator().manual_seed(9), steps=scheduler.grid()[:5])
    again = walk(scheduler, GAUSSIAN, x, torch.Generator().manual_seed(4))
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", ["euler", "dpmsolver++", "unipc", "ddim", "ddpm"])
def test_a_cut_grid_starts_in_the_middle(name):
    scheduler = interop.build(name, CONFIG, 80)
    steps = with_strength(scheduler.grid(), 0.5)
    level = level_at(CONFIG.noise_schedule(), steps[0].t)
    start = TWO_PEAKS.transport(Z, START, level).float()
    generator = torch.Generator().manual_seed(0)
    if scheduler.init_noise_sigma != 1.0:  # Euler holds x_0 + σε, not √ᾱ·x_0 + √(1−ᾱ)·ε
        start = start / level**0.5 / scheduler.init_noise_sigma
    made = walk(scheduler, TWO_PEAKS, start, generator, steps=steps)
    truth = TWO_PEAKS.transport(Z, START, 1.0)
    if name == "ddpm":
        assert float(made.mean()) == pytest.approx(float(truth.mean()), abs=0.25)
    else:
        assert float((made - truth).abs().mean()) < 0.02


@pytest.mark.parametrize("name", ["euler", "dpmsolver++", "heun", "unipc", "pndm", "ddim"])
def test_x_0_is_what_the_prediction_implies(name):
    scheduler = interop.build(name, CONFIG, 10)
    x = Z.float() * scheduler.init_noise_sigma
    step = scheduler.grid()[0]
    shown = scheduler.scale_input(x, step)
    level = level_at(CONFIG.noise_schedule(), step.t)
    said = TWO_PEAKS.predict(shown, level, "epsilon")
    expected = (shown - (1 - level) ** 0.5 * said) / level**0.5
    result = scheduler.step(said, x, step)
    torch.testing.assert_close(result.x_0, expected, rtol=1e-3, atol=1e-3)


def test_x_0_between_two_timesteps_uses_the_level_between():
    scheduler = interop.build("euler", interop.read_config(SD15), 30)  # linspace: 999, 964.55, …
    assert isinstance(scheduler, interop.ForeignScheduler)
    table = scheduler.schedule.alpha_bar
    step = scheduler.grid()[1]
    assert isinstance(step.t, float)
    low = int(step.t)
    assert float(table[low]) > scheduler._alpha_bar(step.t) > float(table[low + 1])
    assert scheduler._alpha_bar(low) == float(table[low])


def test_heun_asks_twice_at_a_timestep():
    listed = [step.t for step in interop.build("heun", CONFIG, 5).grid()]
    assert listed == [999, 799, 799, 599, 599, 399, 399, 199, 199]


def test_needs_noise_tells_the_steps_that_draw():
    draws = interop.build("kdpm2-ancestral", CONFIG, 4)
    assert [draws.needs_noise(step) for step in draws.grid()] == [False, True] * 3 + [False]
    lcm = interop.build("lcm", CONFIG, 4)
    assert [lcm.needs_noise(step) for step in lcm.grid()] == [True, True, True, False]


def test_given_noise_does_not_leak_into_another_thread_or_past_the_step():
    def drawn():
        return torch.randn(2, 3, generator=torch.Generator().manual_seed(5))

    expected, seen = drawn(), []
    with _GivenNoise(torch.full((2, 3), 7.0)):
        thread = threading.Thread(target=lambda: seen.append(drawn()))
        thread.start()
        thread.join()
        inside = drawn()
        with pytest.raises(ValueError, match="draw 2"):
            drawn()
    assert torch.equal(inside, torch.full((2, 3), 7.0))
    assert torch.equal(seen[0], expected)
    assert torch.equal(drawn(), expected)


def test_eta_goes_to_the_class_that_knows_it():
    calm = interop.build("tcd", CONFIG, 4, eta=0.0)
    assert not any(map(calm.needs_noise, calm.grid()))
    with pytest.raises(UserError, match="no use for eta"):
        interop.build("euler", CONFIG, 4, eta=0.5)
    interop.build("euler", CONFIG, 4, eta=0.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("eulr", CONFIG, 4), "did you mean 'euler'"),
        (("NoSuchScheduler", CONFIG, 4), "unknown scheduler"),
        (("AutoencoderKL", CONFIG, 4), "unknown scheduler"),
        (("euler", CONFIG, 0), "1 … 1000"),
        (("euler", CONFIG, 1001), "1 … 1000"),
        (("euler", CONFIG), "either"),
        (("lcm", CONFIG, 80), "refuses this config"),
        (("DPMSolverSDEScheduler", CONFIG, 4), "torchsde"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(arguments, said):
    with pytest.raises(UserError, match=said) as error:
        interop.build(*arguments)
    assert "\n" not in str(error.value)


def test_a_kind_of_prediction_the_class_cannot_read_is_refused_before_the_walk():
    config = SchedulerConfig(prediction_type="sample")
    with pytest.raises(UserError, match="EulerAncestralDiscreteScheduler cannot walk"):
        interop.build("euler-ancestral", config, 4)


@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_eps_prediction_under_zero_terminal_snr_is_refused(name):
    with pytest.raises(UserError, match="zero terminal SNR"):
        interop.build(name, SchedulerConfig(rescale_betas_zero_snr=True), 4)


def test_missing_noise_is_noticed():
    scheduler = interop.build("euler-ancestral", CONFIG, 4)
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="needs_noise"):
        scheduler.step(x, x, scheduler.grid()[0])
