"""From a picture back to the noise it would come from, and from there to another picture."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.walk.batch import Batch
from latentdiff.schedulers import names
from latentdiff.schedulers.base import Grid
from latentdiff.schedulers.ddim import DDIM, DDIMInverse
from latentdiff.schedulers.edict import Edict, EdictInverse
from latentdiff.schedulers.protocol import Scheduler
from latentdiff.schedulers.scheduler_config import SchedulerConfig


def schedulers(request: Request, config: SchedulerConfig) -> tuple[Scheduler, Scheduler]:
    """The walk to the noise and the walk back, for a resolved request with an inversion."""
    assert request.source is not None and request.source.inversion is not None
    exact = request.source.inversion.exact
    grid = Grid(
        num_inference_steps=None if request.timesteps else request.num_inference_steps,
        timesteps=request.timesteps,
        spacing=config.timestep_spacing,
        steps_offset=config.steps_offset,
    )
    schedule, kind = config.noise_schedule(), config.prediction_type
    if exact:
        return (
            EdictInverse(schedule, grid, prediction_type=kind),
            Edict(schedule, grid, prediction_type=kind),
        )
    return (
        DDIMInverse(schedule, grid, prediction_type=kind),
        DDIM(schedule, grid, prediction_type=kind),
    )


def steps_back(steps: tuple[Step, ...], inverse: Scheduler) -> tuple[Step, ...]:
    """The inverse's steps over the same stretch: as many, from clean data up."""
    return inverse.grid()[: len(steps)]


def told(batch: Batch) -> Batch:
    """The batch as the walk to the noise sees it: what the pictures show, at its own guidance."""
    requests = []
    for request in batch.requests:
        assert request.source is not None and request.source.inversion is not None
        by = request.source.inversion
        requests.append(
            replace(request, prompt=by.prompt, guidance_scale=by.guidance_scale, blend=None)
        )
    return Batch(tuple(requests), batch.places)


def check(request: Request) -> None:
    """UserError for a sampler that cannot be walked backwards."""
    given = request.given
    ready = given is not None and given.scheduler is not None
    named = None if request.scheduler is None else names.canonical(request.scheduler)
    if ready or request.eta or (named is not None and names.OURS.get(named) != "ddim"):
        raise UserError(
            "a picture is inverted with the scheduler ddim and eta 0, which can be walked "
            "backwards; leave scheduler and eta out"
        )


def doubled(x_0: Tensor, exact: bool) -> Tensor:
    """Where the walk to the noise starts: (B, C, h, w), or (B, 2C, h, w) for EDICT.

    EDICT's samples are kept in float64: what the network is shown then rounds to the same numbers
    on both ways, and its answers are the same to the bit.
    """
    if not exact:
        return x_0
    wide = x_0 if x_0.device.type == "mps" else x_0.double()
    return torch.cat([wide, wide], dim=1)


def psnr(one: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels (B, 3, H, W) in [-1, 1]; inf where they are equal.

    10 · log10(2² / mean squared difference).
    """
    error = float((one.clamp(-1, 1) - other.clamp(-1, 1)).double().square().mean())
    return float("inf") if error == 0.0 else float(10.0 * torch.log10(torch.tensor(4.0 / error)))
