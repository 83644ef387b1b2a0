"""diffusers' scheduler configs, read and written."""

import dataclasses
import json
import logging
import math

import diffusers
import pytest
from diffusers.utils import logging as diffusers_logging

from latentdiff.errors import UserError
from latentdiff.schedulers import interop
from latentdiff.schedulers.ddim import DDIM, DDIMInverse
from latentdiff.schedulers.ddpm import DDPM
from latentdiff.schedulers.scheduler_config import SchedulerConfig, for_stable_diffusion

# As shipped with Stable Diffusion 1.5 and 2.1.
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
SD21 = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
EULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "scaled_linear",
    "interpolation_type": "linear",
    "use_karras_sigmas": True,
}


@pytest.fixture
def warnings_of_diffusers(caplog):
    diffusers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        yield caplog
    diffusers_logging.disable_propagation()


def test_sd15s_pndm_folder_gives_its_schedule_to_ddim():
    config = interop.read_config(SD15)
    schedule = config.noise_schedule()
    assert math.isclose(float(schedule.alpha_bar[-1]), 0.004660, rel_tol=1e-3)
    assert schedule.final_alpha_bar == float(schedule.alpha_bar[0])
    ddim = interop.build("ddim", config, 50)
    assert isinstance(ddim, DDIM)
    assert [step.t for step in ddim.grid()[:2]] == [981, 961]
    assert ddim.bounds.clip is None
    theirs = diffusers.DDIMScheduler.from_config(SD15)
    theirs.set_timesteps(50)
    assert [step.t for step in ddim.grid()] == theirs.timesteps.tolist()
    assert schedule.final_alpha_bar == pytest.approx(float(theirs.final_alpha_cumprod), rel=1e-6)


def test_without_a_name_the_configs_own_class_walks():
    assert interop.build(None, interop.read_config(SD15), 10).name == "PNDMScheduler"
    assert isinstance(interop.build(None, interop.read_config(SD21), 10), DDIM)
    assert interop.build(None, interop.read_config(EULER), 10).name == "EulerDiscreteScheduler"


def test_ddpm_always_ends_in_clean_data_as_in_diffusers():
    ddpm = interop.build("ddpm", interop.read_config(SD15), 10)
    assert isinstance(ddpm, DDPM)
    assert ddpm.schedule.final_alpha_bar == 1.0


@pytest.mark.parametrize("raw", [SD15, SD21, EULER], ids=["sd15", "sd21", "euler"])
@pytest.mark.parametrize("class_name", [None, "DDIMScheduler", "DDPMScheduler", "PNDMScheduler"])
def test_every_field_survives_reading_and_writing(raw, class_name):
    written = interop.write_config(interop.read_config(raw), class_name)
    kept = {key: value for key, value in written.items() if key in raw}
    assert kept == raw | {"_class_name": class_name or raw["_class_name"]}
    json.dumps(written)
    back = interop.read_config(written)
    for field in ("beta_schedule", "prediction_type", "set_alpha_to_one", "clip_sample"):
        if field in raw:
            assert getattr(back, field) == raw[field]
    again = interop.write_config(back, class_name)
    assert again == written


@pytest.mark.parametrize(
    "class_name", ["DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"]
)
@pytest.mark.parametrize("raw", [SD15, SD21, None], ids=["sd15", "sd21", "own"])
def test_a_written_config_opens_in_diffusers_without_a_warning(
    raw, class_name, tmp_path, warnings_of_diffusers, recwarn
):
    own = SchedulerConfig(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        steps_offset=1,
    )
    config = own if raw is None else interop.read_config(raw)
    written = interop.write_config(config, class_name)
    (tmp_path / "scheduler_config.json").write_text(json.dumps(written))
    theirs = getattr(diffusers, class_name).from_pretrained(tmp_path)
    assert warnings_of_diffusers.records == []
    assert [w for w in recwarn if "diffusers" in str(w.filename)] == []
    for field in ("beta_end", "beta_schedule", "prediction_type", "timestep_spacing"):
        assert theirs.config[field] == getattr(config, field) or field not in written
    assert theirs.config.steps_offset == 1
    if class_name.startswith("DD"):
        assert theirs.config.clip_sample is False
    table = config.noise_schedule().alpha_bar.numpy()
    assert abs(theirs.alphas_cumprod.double().numpy() - table).max() < 2e-6


def test_a_field_nobody_knows_is_kept_and_diffusers_says_so(warnings_of_diffusers):
    written = interop.write_config(interop.read_config(SD21 | {"of_my_own": 1}))
    assert written["of_my_own"] == 1
    diffusers.DDIMScheduler.from_config(written)
    assert "of_my_own" in warnings_of_diffusers.text


def test_what_is_saved_is_what_diffusers_walks(tmp_path):
    config = SchedulerConfig(
        beta_end=0.02, timestep_spacing="trailing", steps_offset=1, set_alpha_to_one=False
    )
    theirs = diffusers.DDIMScheduler.from_config(interop.write_config(config))
    theirs.set_timesteps(25)
    ours = interop.build("ddim", config, 25)
    assert [step.t for step in ours.grid()] == theirs.timesteps.tolist()
    assert ours.schedule.final_alpha_bar == pytest.approx(float(theirs.final_alpha_cumprod))


def test_a_changed_setting_is_written():
    config = dataclasses.replace(interop.read_config(EULER), timestep_spacing="trailing")
    assert interop.write_config(config)["timestep_spacing"] == "trailing"
    assert "timestep_spacing" not in interop.write_config(interop.read_config(EULER))
    scheduler = interop.build("euler", interop.read_config(EULER), 5, spacing="trailing")
    assert scheduler.grid()[-1].t < interop.build("ddim", config, 5).grid()[-1].t + 1


def test_clipping_is_for_the_configs_that_ask_for_it():
    silent = {"_class_name": "PNDMScheduler"}
    assert interop.build("ddim", interop.read_config(silent), 5).bounds.clip is None
    for name in ("DDIMScheduler", "DDPMScheduler"):  # on by default in diffusers
        config = interop.read_config({"_class_name": name, "clip_sample_range": 2.0})
        assert interop.build(None, config, 5).bounds.clip == 2.0
    asked = interop.read_config(silent | {"clip_sample": True})
    assert interop.build("ddpm", asked, 5).bounds.clip == 1.0


def test_the_stable_diffusion_reading_names_what_it_changes():
    same, nothing = for_stable_diffusion(interop.read_config(SD15))
    assert nothing == ()
    assert same == interop.read_config(SD15)
    old = interop.read_config({"_class_name": "DDIMScheduler", "steps_offset": 0})
    changed, said = for_stable_diffusion(old)
    assert (changed.steps_offset, changed.clip_sample) == (1, False)
    assert len(said) == 2


def test_trained_betas_and_rescaling_reach_the_tables():
    config = interop.read_config({"trained_betas": [0.1, 0.2, 0.4], "rescale_betas_zero_snr": True})
    schedule = config.noise_schedule()
    assert schedule.num_train_timesteps == 3
    assert schedule.has_zero_terminal_snr
    assert interop.write_config(config)["trained_betas"] == [0.1, 0.2, 0.4]


def test_a_config_is_found_from_file_scheduler_folder_or_model_folder(tmp_path):
    folder = tmp_path / "scheduler"
    folder.mkdir()
    path = folder / "scheduler_config.json"
    path.write_text(json.dumps(SD15))
    for place in (tmp_path, folder, path, str(tmp_path)):
        assert interop.read_config(place) == interop.read_config(SD15)


@pytest.mark.parametrize("content", ["{", "[1]", '{"beta_end": "0.02"}'])
def test_a_file_that_is_no_config_is_refused_by_its_path(tmp_path, content):
    path = tmp_path / "scheduler_config.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"scheduler_config\.json"):
        interop.read_config(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="give a diffusers model"):
        interop.read_config(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"beta_schedule": "scaled_linea"}, "scaled_linear"),
        ({"beta_schedule": "laplace"}, "unknown beta_schedule"),
        ({"timestep_spacing": "karras"}, "timestep_spacing"),
        ({"prediction_type": "velocity"}, "prediction type"),
        ({"prediction_type": "flow_prediction"}, "flow"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow"),
        ({"_class_name": ["a"]}, "_class_name"),
        ({"num_train_timesteps": 10.5}, "an integer"),
        ({"num_train_timesteps": True}, "an integer"),
        ({"clip_sample": 1}, "true or false"),
        ({"variance_type": 3}, "a name or null"),
        ({"trained_betas": 3}, "list of numbers"),
    ],
)
def test_a_value_no_schedule_can_be_made_from_is_refused(raw, said):
    with pytest.raises(UserError, match=said):
        interop.read_config(raw)


@pytest.mark.parametrize(
    ("variance_type", "expected"),
    [
        (None, "fixed_small"),
        ("fixed_small", "fixed_small"),
        ("fixed_small_log", "fixed_small"),
        ("fixed_large", "fixed_large"),
    ],
)
def test_variance_types_of_diffusers_have_ours(variance_type, expected):
    config = SchedulerConfig(variance_type=variance_type)
    assert interop.build("ddpm", config, 5).variance == expected
    assert interop.build("ddpm", config, 5, variance="zero").variance == "zero"


@pytest.mark.parametrize("variance_type", ["fixed_large_log", "learned", "learned_range"])
def test_a_variance_that_cannot_be_sampled_is_refused(variance_type):
    with pytest.raises(UserError, match=variance_type):
        interop.build("ddpm", SchedulerConfig(variance_type=variance_type), 5)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("ddpm", {"eta": 0.5}, "no use for eta"),
        ("ddpm", {"sigma_hat": True}, "no use for sigma_hat"),
        ("ddim", {"variance": "zero"}, "no use for variance"),
        ("ddim-inverse", {"eta": 0.5}, "no use for eta"),
        ("euler", {"sigma_hat": True}, "no use for sigma_hat"),
        ("euler", {"variance": "zero"}, "no use for variance"),
    ],
)
def test_an_argument_without_use_is_refused(name, settings, said):
    with pytest.raises(UserError, match=said):
        interop.build(name, SchedulerConfig(), 5, **settings)


def test_names_are_taken_in_any_spelling():
    config = SchedulerConfig()
    assert isinstance(interop.build("DDIM", config, 5), DDIM)
    assert isinstance(interop.build("DDIMScheduler", config, 5), DDIM)
    assert isinstance(interop.build("ddim_inverse", config, 5), DDIMInverse)
    assert interop.build("Euler Ancestral", config, 5).name == "EulerAncestralDiscreteScheduler"
    assert interop.build("UniPCMultistepScheduler", config, 5).name == "UniPCMultistepScheduler"


def test_settings_reach_ours():
    config = SchedulerConfig(timestep_spacing="trailing", prediction_type="v_prediction")
    ddim = interop.build("ddim", config, 5, eta=1.0, sigma_hat=True)
    assert (ddim.eta, ddim.sigma_hat, ddim.prediction_type) == (1.0, True, "v_prediction")
    assert ddim.grid()[0].t == 999
    assert interop.build("ddim", config, 5, spacing="leading").grid()[0].t == 800
    assert [s.t for s in interop.build("ddim", config, timesteps=[9, 4]).grid()] == [9, 4]


def test_posterior_mean_has_no_scheduler_in_diffusers():
    with pytest.raises(UserError, match="posterior_mean"):
        interop.write_config(SchedulerConfig(prediction_type="posterior_mean"))
