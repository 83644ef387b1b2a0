"""Samplers by the names that people bring from other programs."""

from __future__ import annotations

import pytest

from latentdiff.errors import UserError
from latentdiff.schedulers import interop, names
from latentdiff.schedulers.scheduler_config import SchedulerConfig

CONFIG = SchedulerConfig(beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1)


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("DDIM", "ddim"),
        ("Euler", "euler"),
        ("Euler a", "euler-a"),
        ("euler_ancestral", "euler-ancestral"),
        ("dpm++", "dpmsolver++"),
        ("DPM++ 2M", "dpmsolver++"),
        ("DPM++ 2M Karras", "dpmsolver++-karras"),
        ("DPM++ 2M SDE Karras", "dpmsolver++-sde-karras"),
        ("dpmpp_2m", "dpmsolver++"),
        ("dpmpp_2m_sde", "dpmsolver++-sde"),
        ("uni_pc", "unipc"),
        ("UniPC", "unipc"),
        ("DPM2 a", "kdpm2-ancestral"),
        ("LMS Karras", "lms-karras"),
        ("DDIMScheduler", "DDIMScheduler"),
        ("HeunDiscreteScheduler", "HeunDiscreteScheduler"),
    ],
)
def test_a_name_of_another_program_is_understood(written: str, known: str) -> None:
    assert names.canonical(written) == known
    assert names.canonical(known) == known


@pytest.mark.parametrize("name", ["euler", "dpmsolver++", "unipc", "heun"])
def test_karras_spacing_is_diffusers_own(name: str) -> None:
    import diffusers

    class_name, settings = names.foreign_settings(f"{name}-karras")
    theirs = getattr(diffusers, class_name).from_config(interop.write_config(CONFIG), **settings)
    theirs.set_timesteps(8)
    ours = interop.build(f"{name} karras", CONFIG, 8)
    plain = interop.build(name, CONFIG, 8)
    told = [float(step.t) for step in ours.grid()]
    assert told != [float(step.t) for step in plain.grid()]
    assert set(told) == {float(t) for t in theirs.timesteps}


@pytest.mark.parametrize("name", ["ddim karras", "DDPM Karras"])
def test_what_has_no_karras_spacing_is_named(name: str) -> None:
    with pytest.raises(UserError, match="has no Karras spacing; try"):
        names.canonical(name)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown scheduler 'eulr'; did you mean 'euler'"):
        names.canonical("eulr")


def test_a_variant_is_its_sampler_with_its_settings() -> None:
    hat = interop.build("ddim-sigma-hat", CONFIG, 10)
    assert hat.noise_std(hat.grid()[0]) > interop.build("ddim", CONFIG, 10, eta=1.0).noise_std(
        hat.grid()[0]
    )
    still = interop.build("ddpm-zero", CONFIG, 10)
    assert not any(still.needs_noise(step) for step in still.grid())
    assert interop.build("ddpm-fixed-large", CONFIG, 10).needs_noise(still.grid()[0])
    with pytest.raises(UserError, match="has no use for eta"):
        interop.build("ddpm-zero", CONFIG, 10, eta=0.5)
