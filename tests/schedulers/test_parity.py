"""Each step of DDPM and DDIM against diffusers, and against the formula in float64.

diffusers is right up to its float32 tables in most places; where it is not, a test shows by how
much the two differ and which of them the formula agrees with.
"""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from known_answers import reference_step

from latentdiff.diffusion.noise_schedule import make_schedule
from latentdiff.schedulers.base import Bounds, Grid
from latentdiff.schedulers.ddim import DDIM, DDIMInverse
from latentdiff.schedulers.ddpm import DDPM

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SNOWGLOBE = SD | {"beta_end": 0.02}
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
KINDS = ("epsilon", "sample", "v_prediction")
MODES = ("eta 0", "eta 0.5", "eta 1", "fixed_small", "fixed_large")


def pair(mode, table, spacing, n, kind, *, offset=0, clip=None, rescale=False, final_one=True):
    """The same scheduler of diffusers and of ours."""
    shared = {"prediction_type": kind}
    clipped = {"clip_sample": clip is not None, "clip_sample_range": clip or 1.0}
    theirs_only = shared | clipped | table | {"timestep_spacing": spacing, "steps_offset": offset}
    theirs_only["rescale_betas_zero_snr"] = rescale
    schedule = make_schedule(table["beta_schedule"], 1000, *list(table.values())[1:])
    if rescale:
        schedule = schedule.rescale_zero_terminal_snr()
    grid = Grid(num_inference_steps=n, spacing=spacing, steps_offset=offset)
    shared |= {"grid": grid, "bounds": Bounds(clip=clip)}
    if mode.startswith("eta"):
        if not final_one:
            schedule = schedule.with_final_alpha_bar(float(schedule.alpha_bar[0]))
        theirs = DDIMScheduler(**theirs_only, set_alpha_to_one=final_one)
        ours = DDIM(schedule, eta=float(mode.split()[1]), **shared)
    else:
        theirs = DDPMScheduler(**theirs_only, variance_type=mode)
        ours = DDPM(schedule, variance=mode, **shared)
    theirs.set_timesteps(n)
    return theirs, ours


def moment(ours, step, kind, seed):
    """A sample as the walk meets it, a prediction a little off the truth, and noise; float32."""
    generator = torch.Generator().manual_seed(seed)
    x_0, eps, error, noise = torch.randn(4, 2, 3, 6, 6, generator=generator)
    a, _ = ours.levels(step)
    x = math.sqrt(a) * x_0 + math.sqrt(1 - a) * eps
    truth = {
        "epsilon": eps,
        "sample": x_0,
        "v_prediction": math.sqrt(a) * eps - math.sqrt(1 - a) * x_0,
    }
    return x, truth[kind] + 0.1 * error, noise


def their_step(theirs, mode, said, step, x, noise):
    """diffusers' own step, made to draw `noise`."""
    if mode.startswith("eta"):
        eta = float(mode.split()[1])
        arguments = {"eta": eta, "variance_noise": noise if eta > 0 else None}
        return theirs.step(said, step.t, x, **arguments).prev_sample
    with mock.patch.object(scheduling_ddpm, "randn_tensor", lambda *a, **k: noise):
        return theirs.step(said, step.t, x).prev_sample


def std_of(ours, step):
    return ours.sigma(step) if isinstance(ours, DDPM) else ours.noise_std(step)


def deviations(mode, table, spacing, n, kind, *, every=1, their_tables=None, **settings):
    """Per step: our distance from diffusers, and both distances from the float64 formula."""
    theirs, ours = pair(mode, table, spacing, n, kind, **settings)
    if their_tables == "float64":
        theirs.alphas_cumprod = ours.schedule.alpha_bar
    rows = []
    for step in ours.grid()[::every]:
        x, said, noise = moment(ours, step, kind, seed=step.index)
        mine = ours.step(said, x, step, noise).x
        other = their_step(theirs, mode, said, step, x, noise)
        a, a_prev = ours.levels(step)
        exact = reference_step(
            kind,
            said,
            x,
            a,
            a_prev,
            std=std_of(ours, step),
            ancestral=isinstance(ours, DDPM),
            noise=noise,
            clip=settings.get("clip"),
        )
        scale = max(1.0, float(x.abs().max()))
        rows.append(
            (
                float((mine - other).abs().max()) / scale,
                float(np.abs(mine.numpy() - exact).max() / np.abs(exact).max()),
                float(np.abs(other.numpy() - exact).max() / np.abs(exact).max()),
            )
        )
    return np.array(rows)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("table", "spacing", "n", "offset"),
    [
        (SD, "leading", 50, 1),
        (SD, "leading", 30, 0),
        (SD, "trailing", 25, 0),
        (SNOWGLOBE, "trailing", 25, 1),
        (LINEAR, "trailing", 50, 0),
        (LINEAR, "leading", 20, 1),
    ],
    ids=lambda v: str(v.get("beta_end")) if isinstance(v, dict) else str(v),
)
def test_every_step_equals_diffusers(mode, kind, table, spacing, n, offset):
    rows = deviations(mode, table, spacing, n, kind, offset=offset)
    if mode == "fixed_large" and (spacing == "trailing" or offset):
        rows = rows[:-1]  # see test_the_last_step_of_ddpm_adds_no_noise
    assert rows[:, 0].max() <= 1e-5
    assert rows[:, 1].max() <= 1e-6


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_clipped_steps_equal_diffusers(mode, kind):
    rows = deviations(mode, SD, "leading", 25, kind, clip=0.8)
    assert rows[:, 0].max() <= 1e-5
    assert rows[:, 1].max() <= 1e-6


@pytest.mark.parametrize("mode", ["eta 0", "eta 1"])
@pytest.mark.parametrize("offset", [0, 1])
def test_a_checkpoints_own_final_alpha_bar_equals_diffusers(mode, offset):
    rows = deviations(mode, SD, "leading", 50, "epsilon", offset=offset, final_one=False)
    assert rows[:, 0].max() <= 1e-5


@pytest.mark.parametrize("mode", MODES[:4])
@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_zero_terminal_snr_equals_diffusers(mode, kind):
    rows = deviations(mode, SD, "trailing", 50, kind, rescale=True)
    assert rows[:, 1].max() <= 1e-6
    # From ᾱ = 0 with η = 1 the direction's factor is √(1 − ᾱ_prev − σ²) = 0. In float32 diffusers'
    # is √±6e-8, NaN on some processors: only the formula is held against ours there.
    first = 1 if mode == "eta 1" else 0
    assert rows[first:, 0].max() <= 1e-5


@pytest.mark.parametrize("mode", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("table", [LINEAR, SD, COSINE], ids=["linear", "sd", "cosine"])
def test_all_1000_steps_equal_diffusers_once_its_tables_are_float64(mode, kind, table):
    rows = deviations(mode, table, "leading", 1000, kind, every=37, their_tables="float64")
    last = deviations(mode, table, "leading", 1000, kind, every=998, their_tables="float64")
    assert max(rows[:, 0].max(), last[:, 0].max()) <= 2e-6
    assert max(rows[:, 1].max(), last[:, 1].max()) <= 1e-6


@pytest.mark.parametrize(
    ("mode", "table", "spacing", "n", "every", "row"),
    [("eta 0", COSINE, "trailing", 25, 1, 0), ("fixed_small", LINEAR, "leading", 1000, 998, 1)],
    ids=["alpha_bar near 0", "beta near 0"],
)
def test_where_float32_tables_are_too_coarse_ours_keep_to_the_formula(
    mode, table, spacing, n, every, row
):
    rows = deviations(mode, table, spacing, n, "epsilon", every=every)
    apart, ours, theirs = rows[row]
    assert apart > 1e-5
    assert ours <= 1e-6 < theirs


@pytest.mark.parametrize(
    ("spacing", "n", "wrong"),
    [("linspace", 50, 19), ("trailing", 30, 10), ("trailing", 60, 40), ("trailing", 50, 0)],
)
def test_ddim_in_diffusers_strides_past_the_previous_step(spacing, n, wrong):
    rows = deviations("eta 0", SD, spacing, n, "epsilon")
    off = rows[:, 0] > 1e-5
    assert off.sum() == wrong
    assert rows[:, 1].max() <= 1e-6
    if wrong:
        assert (rows[off, 2] > 1e-5).all()


@pytest.mark.parametrize(("spacing", "n"), [("linspace", 50), ("trailing", 30)])
def test_ddpm_in_diffusers_looks_the_previous_step_up_as_we_do(spacing, n):
    assert deviations("fixed_small", SD, spacing, n, "epsilon")[:, 0].max() <= 1e-5


def test_the_last_step_of_ddpm_adds_no_noise():
    """DDPM algorithm 2, line 3. diffusers adds √β there when the last timestep is above 0."""
    theirs, ours = pair("fixed_large", SD, "trailing", 25, "epsilon")
    step = ours.grid()[-1]
    assert not ours.needs_noise(step)
    x, said, noise = moment(ours, step, "epsilon", 0)
    mine = ours.step(said, x, step)
    torch.testing.assert_close(mine.x, mine.x_0)
    extra = their_step(theirs, "fixed_large", said, step, x, noise) - mine.x
    added = math.sqrt(1.0 - float(ours.schedule.alpha_bar[39])) * noise
    torch.testing.assert_close(extra, added, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_dynamic_thresholding_equals_diffusers(name):
    settings = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
    cls, mine = (DDIMScheduler, DDIM) if name == "ddim" else (DDPMScheduler, DDPM)
    theirs = cls(**SD, **settings, prediction_type="sample")
    theirs.set_timesteps(10)
    ours = mine(
        make_schedule("scaled_linear"),
        Grid(num_inference_steps=10),
        prediction_type="sample",
        bounds=Bounds(quantile=0.9, largest=1.5),
    )
    step = ours.grid()[-1]
    x, said, _ = moment(ours, step, "sample", 3)
    result = ours.step(3 * said, x, step)
    expected = theirs.step(3 * said, step.t, x)
    torch.testing.assert_close(result.x_0, expected.pred_original_sample, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(result.x, expected.prev_sample, atol=1e-5, rtol=1e-5)
    assert float(result.x_0.abs().max()) <= 1.0


def test_eps_from_clipped_x_0_equals_diffusers():
    theirs, ours = pair("eta 0", SD, "leading", 20, "epsilon", clip=0.5)
    ours.eps_from_clipped_x_0 = True
    for step in ours.grid():
        x, said, _ = moment(ours, step, "epsilon", step.index)
        expected = theirs.step(said, step.t, x, use_clipped_model_output=True).prev_sample
        torch.testing.assert_close(ours.step(said, x, step).x, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("spacing", "offset"), [("leading", 1), ("trailing", 0)])
def test_inverse_steps_equal_diffusers(spacing, offset):
    theirs = DDIMInverseScheduler(
        **SD, timestep_spacing=spacing, steps_offset=offset, clip_sample=False
    )
    theirs.set_timesteps(25)
    ours = DDIMInverse(
        make_schedule("scaled_linear"),
        Grid(num_inference_steps=25, spacing=spacing, steps_offset=offset),
    )
    assert [step.t for step in ours.grid()] == theirs.timesteps.tolist()
    for step in ours.grid():
        x, said = torch.randn(2, 1, 3, 6, 6, generator=torch.Generator().manual_seed(step.index))
        expected = theirs.step(said, step.t, x).prev_sample
        torch.testing.assert_close(ours.step(said, x, step).x, expected, atol=1e-5, rtol=0)
