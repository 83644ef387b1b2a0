"""Repaint a part of a picture: what is kept is put back at every step, at that step's noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

import latentdiff.pipelines.from_pictures.image_to_image as image_to_image
from latentdiff.diffusion.timesteps import Step
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.pipelines.from_pictures.sources import Canvas
from latentdiff.pipelines.walk.legs import After
from latentdiff.sampling import Noise
from latentdiff.schedulers.protocol import Scheduler

GREY = (128, 128, 128)
"""What an inpainting checkpoint is shown in place of what it repaints."""


def resampled(steps: Sequence[Step], times: int) -> tuple[Step, ...]:
    """Each step `times` times, but the last, which leads to clean data (RePaint, algorithm 1)."""
    return (*(step for step in steps[:-1] for _ in range(times)), steps[-1])


def keep(
    x_0: Tensor,
    eps: Tensor,
    cells: Tensor,
    scheduler: Scheduler,
    steps: Sequence[Step],
    *,
    noise: Noise,
    blend: bool = True,
) -> After:
    """After every step: cells that are kept hold the picture at the level where the step leads.

    x_0, eps (B, C, h, w): the picture's latents and the noise of the walk's start. cells
    (B, 1, h, w): 1 is repainted. blend: off for checkpoints that see the picture themselves.
    Where the next step is the same one again, x is noised back to its t (RePaint, algorithm 1,
    line 9).
    """
    grid = scheduler.grid()

    def after(index: int, x: Tensor) -> Tensor:
        step = steps[index]
        following = grid[step.index + 1] if step.index + 1 < len(grid) else None
        if blend:
            known = (
                x_0 if following is None else image_to_image.noised(x_0, eps, scheduler, following)
            )
            x = cells * x + (1.0 - cells) * known.to(x)
        if following is not None and index + 1 < len(steps) and steps[index + 1] is step:
            x = noised_further(x, noise(), scheduler, following, step)
        return x

    return after


def noised_further(x: Tensor, eps: Tensor, scheduler: Scheduler, at: Step, to: Step) -> Tensor:
    """The sample at `to`, the noisier step, made of the sample at `at` with unit noise."""
    (a, s), (a_to, s_to) = scheduler.signal_and_noise(at), scheduler.signal_and_noise(to)
    ratio = a_to / a
    return ratio * x + math.sqrt(max(0.0, s_to**2 - (ratio * s) ** 2)) * eps


def masked_channels(autoencoder: Autoencoder, canvases: Sequence[Canvas], cells: Tensor) -> Tensor:
    """(B, 1 + C, h, w): the mask and the latents of the picture with its white parts grey.

    What an inpainting checkpoint of Stable Diffusion sees beside x_t.
    """
    grey = []
    for canvas in canvases:
        assert canvas.alpha is not None
        hole = Image.new("L", canvas.drawn.size)
        hole.paste(canvas.alpha.crop(canvas.box).resize(canvas.size), (0, 0))
        image = canvas.drawn.copy()
        image.paste(GREY, mask=hole.point(lambda level: 255 if level else 0))
        grey.append(image)
    return torch.cat([cells, image_to_image.encode(autoencoder, grey).to(cells)], dim=1)
