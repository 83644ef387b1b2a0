"""Schedulers by name from a diffusers config: ours, or any of diffusers' own in an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentdiff.errors import UserError
from latentdiff.schedulers.base import Bounds, Grid
from latentdiff.schedulers.ddim import DDIM, DDIMInverse
from latentdiff.schedulers.ddpm import DDPM
from latentdiff.schedulers.foreign import ForeignScheduler, make_foreign
from latentdiff.schedulers.names import (
    ALIASES,
    OURS,
    VARIANTS,
    canonical,
    foreign_settings,
    known_names,
)
from latentdiff.schedulers.protocol import Scheduler
from latentdiff.schedulers.scheduler_config import (
    CONFIG_NAME,
    SchedulerConfig,
    for_stable_diffusion,
    read_config,
    write_config,
)
from latentdiff.schedulers.scores.readings import make_reading

__all__ = [
    "ALIASES",
    "CONFIG_NAME",
    "ForeignScheduler",
    "SchedulerConfig",
    "build",
    "for_stable_diffusion",
    "known_names",
    "read_config",
    "write_config",
]


def build(
    name: str | None,
    config: SchedulerConfig,
    num_inference_steps: int | None = None,
    *,
    timesteps: Sequence[int] | None = None,
    eta: float | None = None,
    spacing: str | None = None,
    sigma_hat: bool = False,
    variance: str | None = None,
) -> Scheduler:
    """The scheduler called `name`, on the noise schedule of `config`, ready for one walk.

    name: a short name (`known_names()`), a diffusers class name, or None for the config's own
    class. num_inference_steps, or an explicit falling list of timesteps. eta and sigma_hat: DDIM's
    (eta also goes to a diffusers class that knows it); variance: DDPM's, the config's own when
    left out; spacing: another than the config's. An argument the scheduler has no use for is a
    UserError; eta 0 is none.
    """
    wanted = canonical(name if name is not None else config.class_name)
    if wanted not in OURS:
        _unused(wanted, sigma_hat=sigma_hat, variance=variance)
        class_name, overrides = foreign_settings(wanted)
        return make_foreign(
            class_name,
            config,
            overrides | ({} if spacing is None else {"timestep_spacing": spacing}),
            num_inference_steps=num_inference_steps,
            timesteps=timesteps,
            eta=eta,
        )
    grid = Grid(
        num_inference_steps=num_inference_steps,
        timesteps=timesteps,
        spacing=spacing if spacing is not None else config.timestep_spacing,
        steps_offset=config.steps_offset,
    )
    given: dict[str, Any] = {"eta": eta or 0.0, "sigma_hat": sigma_hat, "variance": variance}
    if wanted in VARIANTS:
        _unused(wanted, eta=eta or None, sigma_hat=sigma_hat, variance=variance)
        wanted, settings = VARIANTS[wanted]
        given |= settings
    return _ours(wanted, config, grid, **given)


def _ours(
    name: str,
    config: SchedulerConfig,
    grid: Grid,
    *,
    eta: float,
    sigma_hat: bool,
    variance: str | None,
) -> Scheduler:
    """One of this package's own samplers."""
    schedule, bounds = config.noise_schedule(), _bounds(config)
    if OURS[name] == "ddim":
        _unused(name, variance=variance)
        return DDIM(
            schedule,
            grid,
            eta=eta,
            sigma_hat=sigma_hat,
            prediction_type=config.prediction_type,
            bounds=bounds,
        )
    _unused(name, eta=eta or None, sigma_hat=sigma_hat)
    if OURS[name] == "ddim-inverse":
        _unused(name, variance=variance)
        return DDIMInverse(schedule, grid, prediction_type=config.prediction_type)
    if OURS[name] != "ddpm":
        _unused(name, variance=variance)
        steps = grid.steps(schedule.num_train_timesteps)
        return make_reading(OURS[name], schedule, steps, config.prediction_type)
    chosen = variance if variance is not None else _variance(config.variance_type)
    # diffusers' DDPM knows no set_alpha_to_one: its last step always leads to clean data.
    return DDPM(
        schedule.with_final_alpha_bar(1.0),
        grid,
        variance=chosen,
        prediction_type=config.prediction_type,
        bounds=bounds,
    )


def _bounds(config: SchedulerConfig) -> Bounds:
    """What the config says of x_0; as in diffusers, thresholding stands in place of clipping."""
    if config.thresholding:
        return Bounds(quantile=config.dynamic_thresholding_ratio, largest=config.sample_max_value)
    return Bounds(clip=config.clip_sample_range if config.clip_sample else None)


def _unused(scheduler: str, **arguments: object) -> None:
    for argument, value in arguments.items():
        if value is not None and value is not False:
            raise UserError(f"the scheduler {scheduler!r} has no use for {argument}: leave it out")


def _variance(variance_type: str | None) -> str:
    """DDPM's variance for diffusers' variance_type."""
    if variance_type in (None, "fixed_small", "fixed_small_log"):
        return "fixed_small"  # diffusers' log form is the same number by way of exp(log(·)/2)
    if variance_type == "fixed_large":
        return "fixed_large"
    raise UserError(
        f"variance_type {variance_type!r} is not supported: a learned variance needs a network "
        "with twice the channels, and diffusers' 'fixed_large_log' yields NaN; use 'fixed_small' "
        "or 'fixed_large'"
    )
