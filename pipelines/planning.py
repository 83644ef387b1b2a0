"""How a batch is walked: its size, its schedulers, where it starts and along which legs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import latentdiff.pipelines.from_pictures.image_to_image as image_to_image
import latentdiff.pipelines.from_pictures.inpainting as inpainting
import latentdiff.pipelines.from_pictures.inversion as inversion
import latentdiff.pipelines.walk.embeds as embeds
from latentdiff.conditioning.guidance import Predict
from latentdiff.diffusion.timesteps import with_strength
from latentdiff.errors import UserError
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.bundle import Bundle
from latentdiff.models.denoiser import WithChannels
from latentdiff.models.geometry import Geometry
from latentdiff.pipelines.from_pictures.blending import starting_noise
from latentdiff.pipelines.from_pictures.sources import Canvas, canvas_of, with_source
from latentdiff.pipelines.request import Given, Request
from latentdiff.pipelines.walk.batch import Batch
from latentdiff.pipelines.walk.legs import Leg
from latentdiff.sampling import ContextAt, SeededNoise
from latentdiff.schedulers import interop
from latentdiff.schedulers.protocol import Scheduler
from latentdiff.schedulers.scheduler_config import SchedulerConfig

Condition = Callable[[Batch], tuple[Predict, Tensor | ContextAt]]
"""A batch → its denoiser with guidance inside, and the context that it is told."""


@dataclass(frozen=True)
class Parts:
    """What a walk needs of a pipeline."""

    bundle: Bundle
    autoencoder: Autoencoder
    geometry: Geometry


@dataclass(frozen=True)
class Plan:
    """x (B, C, h, w): where the walk starts. noise: of the seeds, after the draws for x."""

    x: Tensor
    legs: list[Leg]
    noise: SeededNoise


# Requests


def sized(request: Request, parts: Parts) -> Request:
    """The request with its size, and what its source leaves open, filled in."""
    own = parts.geometry.own_size or (None, None)
    source, repaints = request.source, parts.bundle.repaints
    if source is None:
        if repaints:
            raise UserError(
                "this is an inpainting model, which needs a picture and a mask of what to "
                "repaint; give both"
            )
        height, width = request.height or own[0], request.width or own[1]
        if height is None or width is None:
            raise UserError("the model does not say its size; give height and width")
        return replace(request, height=height, width=width)
    if repaints and source.inpaint is None:
        raise UserError("this is an inpainting model, which needs a mask of what to repaint")
    if source.inversion is not None:
        inversion.check(request)
        request = replace(request, scheduler=request.scheduler or "ddim")
    return with_source(request, parts.geometry)


def step_count(request: Request, config: SchedulerConfig, default: Callable[[], int]) -> int:
    """The number of steps that is asked of the scheduler; Heun's grid has more."""
    asked = request.num_inference_steps
    if request.given is not None and request.given.scheduler is not None:
        own = len(request.given.scheduler.grid())
        if asked not in (None, own):
            raise UserError(f"a ready scheduler has its own steps, {own}; leave {asked} out")
        return own
    if request.timesteps is not None:
        return len(request.timesteps)
    steps = default() if asked is None else asked
    if steps > config.num_train_timesteps:
        raise UserError(
            f"{steps} steps are out of range; expected 1 … {config.num_train_timesteps}"
        )
    return steps


def drawn_size(request: Request, geometry: Geometry) -> tuple[int, int]:
    """(width, height) of what the model draws for a resolved request."""
    if request.source is not None and request.source.inpaint is not None:
        return canvas_of(request, geometry).drawn.size
    assert request.width is not None and request.height is not None
    return request.width, request.height


def check_drawable(request: Request, parts: Parts) -> None:
    """UserError unless a resolved request's size and given tensors fit the model."""
    width, height = drawn_size(request, parts.geometry)
    parts.geometry.check_size(height, width)
    if request.source is not None and request.source.strength is not None:
        with_strength((), request.source.strength, asked=request.num_inference_steps)
    given = request.given or Given()
    if given.latents is not None:
        _check_latents(given.latents, parts.geometry.latent_shape(height, width))
    embeds.check_embeds(request, int(parts.bundle.light.unet.config.cross_attention_dim))


def _check_latents(latents: Tensor, shape: tuple[int, int, int]) -> None:
    """UserError unless these are one picture's x_T."""
    if tuple(latents.shape) != shape:
        raise UserError(f"latents have shape {tuple(latents.shape)}; expected {shape}")
    if not bool(torch.isfinite(latents).all()):
        raise UserError("the given latents hold NaN or infinity")


def scheduler_of(request: Request, config: SchedulerConfig) -> Scheduler:
    """A fresh scheduler for one walk of a resolved request."""
    if request.given is not None and request.given.scheduler is not None:
        return request.given.scheduler
    return interop.build(
        request.scheduler,
        config,
        None if request.timesteps else request.num_inference_steps,
        timesteps=request.timesteps,
        eta=request.eta,
    )


# Walks


def plan(parts: Parts, batch: Batch, condition: Condition) -> Plan:
    """Where a batch of resolved requests starts, and the legs of its walk."""
    request, source = batch.shared, batch.shared.source

    # 1. Context: what the prompts mean to the network, the negative ones first.
    denoiser, context = condition(batch)

    # 2. Noise: x_T of unit variance, each picture's from its own seed.
    width, height = drawn_size(request, parts.geometry)
    shape = parts.geometry.latent_shape(height, width)
    noise = SeededNoise(batch.seeds, shape, parts.bundle.light.unet.device)
    unit = starting_noise(batch, noise)

    # 3. Legs: from x_T, or from a picture, to x_0, by the scheduler.
    if source is None:
        scheduler = scheduler_of(request, parts.bundle.scheduler_config)
        leg = Leg(denoiser=denoiser, scheduler=scheduler, context=context, steps=scheduler.grid())
        return Plan(unit * scheduler.init_noise_sigma, [leg], noise)
    canvases = [canvas_of(r, parts.geometry) for r in batch.requests]
    x_0 = image_to_image.encode(parts.autoencoder, [canvas.drawn for canvas in canvases])
    if source.inversion is not None:
        there_and_back = _there_and_back(parts, batch, condition, (denoiser, context))
        return Plan(inversion.doubled(x_0, source.inversion.exact), there_and_back, noise)
    scheduler = scheduler_of(request, parts.bundle.scheduler_config)
    assert source.strength is not None and request.num_inference_steps is not None
    steps = image_to_image.steps_of(scheduler, source.strength, request.num_inference_steps)
    x = image_to_image.start(x_0, unit, scheduler, steps, source.strength)
    leg = Leg(denoiser=denoiser, scheduler=scheduler, context=context, steps=steps)
    if source.inpaint is not None:
        leg = _repainting(parts, leg, canvases, x_0, unit, noise, source.inpaint.resample)
    return Plan(x, [leg], noise)


def _repainting(
    parts: Parts,
    leg: Leg,
    canvases: list[Canvas],
    x_0: Tensor,
    unit: Tensor,
    noise: SeededNoise,
    times: int,
) -> Leg:
    """The leg with what is kept put back after every step, or shown to an inpainting model."""
    cells = torch.stack([canvas.cells(parts.geometry.factor) for canvas in canvases]).to(x_0)
    steps = inpainting.resampled(leg.steps, times)
    denoiser, repaints = leg.denoiser, parts.bundle.repaints
    if repaints:
        extra = inpainting.masked_channels(parts.autoencoder, canvases, cells)
        denoiser = WithChannels(denoiser, extra)
    after = inpainting.keep(
        x_0, unit, cells, leg.scheduler, steps, noise=noise.draw, blend=not repaints
    )
    return replace(leg, denoiser=denoiser, steps=steps, after=after)


def _there_and_back(
    parts: Parts, batch: Batch, condition: Condition, told: tuple[Predict, Tensor | ContextAt]
) -> list[Leg]:
    """To the noise by what the picture shows, and from there by the prompt."""
    request, source = batch.shared, batch.shared.source
    assert source is not None and source.strength is not None
    assert request.num_inference_steps is not None
    back, forward = inversion.schedulers(request, parts.bundle.scheduler_config)
    steps = image_to_image.steps_of(forward, source.strength, request.num_inference_steps)
    denoiser, context = condition(inversion.told(batch))
    channels = parts.geometry.channels
    return [
        Leg(
            denoiser=denoiser,
            scheduler=back,
            context=context,
            steps=inversion.steps_back(steps, back),
            channels=channels,
        ),
        Leg(
            denoiser=told[0],
            scheduler=forward,
            context=told[1],
            steps=steps,
            channels=channels,
        ),
    ]
