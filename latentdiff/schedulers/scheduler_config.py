"""diffusers' scheduler_config.json, read and written without diffusers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from latentdiff.diffusion.noise_schedule import NoiseSchedule, from_betas, make_schedule
from latentdiff.diffusion.prediction import check_prediction_type
from latentdiff.errors import UserError, unknown_name
from latentdiff.files.json_file import read_json

CONFIG_NAME = "scheduler_config.json"
# Of the classes that clip, these two do so unless told otherwise.
_CLIPS_BY_DEFAULT = ("DDIMScheduler", "DDPMScheduler")
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
_SPACINGS = ("leading", "trailing", "linspace")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """One scheduler's settings, under diffusers' names.

    class_name: the diffusers class the file was written for. raw: the file as it was read, so that
    fields that only other classes know survive; empty for a config made here. Raises UserError
    for a value that no schedule can be made from.
    """

    class_name: str = "DDIMScheduler"
    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    set_alpha_to_one: bool = True
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    variance_type: str | None = None
    raw: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prediction_type == "flow_prediction" or "Flow" in self.class_name:
            raise UserError(
                f"{self.class_name} with prediction type {self.prediction_type!r} belongs to flow "
                "matching, not to a noise schedule: use a checkpoint with ε-, v- or x_0-prediction"
            )
        check_prediction_type(self.prediction_type)
        if self.trained_betas is None and self.beta_schedule not in _BETA_SCHEDULES:
            raise unknown_name("beta_schedule", self.beta_schedule, _BETA_SCHEDULES)
        if self.timestep_spacing not in _SPACINGS:
            raise unknown_name("timestep_spacing", self.timestep_spacing, _SPACINGS)

    def noise_schedule(self) -> NoiseSchedule:
        """The float64 tables, rescaled where asked, ending at ᾱ_0 where set_alpha_to_one is off."""
        if self.trained_betas is not None:
            schedule = from_betas(self.trained_betas)
        else:
            schedule = make_schedule(
                self.beta_schedule, self.num_train_timesteps, self.beta_start, self.beta_end
            )
        if self.rescale_betas_zero_snr:
            schedule = schedule.rescale_zero_terminal_snr()
        if not self.set_alpha_to_one:
            schedule = schedule.with_final_alpha_bar(float(schedule.alpha_bar[0]))
        return schedule


_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(SchedulerConfig)
    if field.name not in ("class_name", "raw")
)


def read_config(source: str | Path | Mapping[str, Any]) -> SchedulerConfig:
    """A scheduler's config from a mapping, its JSON file, its folder, or a model's folder.

    Missing fields take diffusers' defaults, except that clip_sample is off unless the config asks
    for it or is a DDIM's or DDPM's own: a PNDM or Euler config that says nothing never clipped.
    Raises UserError when there is no such file or its content is not a scheduler's.
    """
    if isinstance(source, Mapping):
        return _from_mapping(source, "the scheduler config")
    path = _find(Path(source))
    return _from_mapping(read_json(path), str(path))


def _find(path: Path) -> Path:
    for candidate in (path, path / CONFIG_NAME, path / "scheduler" / CONFIG_NAME):
        if candidate.is_file():
            return candidate
    raise UserError(f"no {CONFIG_NAME} at {path}: give a diffusers model or scheduler folder")


def _from_mapping(raw: Mapping[str, Any], where: str) -> SchedulerConfig:
    class_name = raw.get("_class_name", "DDIMScheduler")
    if not isinstance(class_name, str):
        raise UserError(f"{where}: _class_name must be a name, found {class_name!r}")
    unset = raw.get("_use_default_values", ())
    given = {name: raw[name] for name in _FIELDS if name in raw and name not in unset}
    given.setdefault("clip_sample", class_name in _CLIPS_BY_DEFAULT)
    betas = given.get("trained_betas")
    if betas is not None:
        given["trained_betas"] = _numbers(betas, where)
    for name, value in given.items():
        if name != "trained_betas":
            given[name] = _checked(name, value, where)
    return SchedulerConfig(class_name=class_name, raw=dict(raw), **given)


def _numbers(values: Any, where: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: trained_betas must be a list of numbers ({error})") from error


def _checked(name: str, value: Any, where: str) -> Any:
    """The value, if it is of its field's type."""
    default = getattr(SchedulerConfig, name)
    if default is None:
        expected, fits = "a name or null", value is None or isinstance(value, str)
    elif isinstance(default, bool):
        expected, fits = "true or false", isinstance(value, bool)
    elif isinstance(default, int):
        expected, fits = "an integer", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        expected, fits = "a number", isinstance(value, int | float) and not isinstance(value, bool)
    else:
        expected, fits = "a name", isinstance(value, str)
    if not fits:
        raise UserError(f"{where}: {name} must be {expected}, found {value!r}")
    return value


def write_config(config: SchedulerConfig, class_name: str | None = None) -> dict[str, Any]:
    """The content of a scheduler_config.json that opens in diffusers without a warning.

    class_name: the diffusers class to write for, the config's own when left out. Every field that
    was read is kept. For DDIM and DDPM all fields are written out, so that no default of diffusers
    (clip_sample is on there) can change the meaning. Raises UserError for what diffusers cannot
    express.
    """
    if config.prediction_type == "posterior_mean":
        raise UserError(
            "diffusers has no scheduler for 'posterior_mean' prediction: "
            "train with 'epsilon', 'v_prediction' or 'sample' to save for it"
        )
    name = class_name or config.class_name
    written = told_fields(config)
    if name in _CLIPS_BY_DEFAULT:
        written = {field: _plain(getattr(config, field)) for field in _FIELDS} | written
    if written.get("variance_type", "") is None and "variance_type" not in config.raw:
        del written["variance_type"]
    if name == "DDPMScheduler" and written.get("variance_type") is None:
        written["variance_type"] = "fixed_small"
    if name == "PNDMScheduler":
        written.setdefault("skip_prk_steps", True)
    written["_class_name"] = name
    written.setdefault("_diffusers_version", _diffusers_version())
    return dict(sorted(written.items()))


def told_fields(config: SchedulerConfig) -> dict[str, Any]:
    """What was read, and what was set since; of a config made here, every field.

    A field that the file left out is left out, so that a class reading it takes its own default.
    """
    written = dict(config.raw)
    for field in written.pop("_use_default_values", ()):
        written.pop(field, None)
    was_read = _from_mapping(config.raw, "the config") if config.raw else None
    for field in _FIELDS:
        value = getattr(config, field)
        if was_read is None or value != getattr(was_read, field):
            written[field] = _plain(value)
    return written


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _diffusers_version() -> str:
    try:
        return version("diffusers")
    except PackageNotFoundError:
        return "0.42.1"


def for_stable_diffusion(config: SchedulerConfig) -> tuple[SchedulerConfig, tuple[str, ...]]:
    """The config as diffusers' Stable Diffusion pipeline would take it, and what that changed.

    That pipeline sets steps_offset to 1 and clip_sample to False, with a page of warnings, in any
    folder that says otherwise. The second value holds one sentence per change, for the caller to
    print; empty for a folder that already says so.
    """
    changes = []
    if config.raw.get("steps_offset", config.steps_offset) != 1:
        changes.append(f"steps_offset {config.steps_offset} is read as 1")
    if config.clip_sample:
        changes.append("clip_sample is read as False")
    changed = dataclasses.replace(config, steps_offset=1, clip_sample=False)
    return changed, tuple(changes)
