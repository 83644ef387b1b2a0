"""Start from a picture: noised to where the walk begins (SDEdit, Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from latentdiff.diffusion.timesteps import Step, with_strength
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.pixels import to_pixels
from latentdiff.sampling import check_finite
from latentdiff.schedulers.protocol import Scheduler


@torch.no_grad()
def encode(autoencoder: Autoencoder, images: Sequence[Image.Image]) -> Tensor:
    """Latents (B, C, h, w) float32 of pictures of one size: the posterior's mode.

    No noise of the seed goes into them, so x_T is the seed's first draw as in text-to-image.
    Pictures that are one object are encoded once.
    """
    found: dict[int, Tensor] = {}
    for image in images:
        if id(image) not in found:
            rows = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            pixels = to_pixels(rows.reshape(1, image.height, image.width, 3))
            moments = autoencoder.encode_moments(
                pixels.to(device=autoencoder.device, dtype=autoencoder.dtype)
            )
            check_finite(moments, "the autoencoder's encoder", "while encoding the picture")
            found[id(image)] = autoencoder.mode(moments).float()
    return torch.cat([found[id(image)] for image in images])


def steps_of(scheduler: Scheduler, strength: float, asked: int) -> tuple[Step, ...]:
    """The steps that are walked at a strength, of `asked` that make the whole grid."""
    order = int(getattr(scheduler, "order", 1))
    return with_strength(scheduler.grid(), strength, asked=asked, order=order)


def noised(x_0: Tensor, eps: Tensor, scheduler: Scheduler, step: Step) -> Tensor:
    """The sample at step.t of clean latents and unit noise, both (B, C, h, w)."""
    a, s = scheduler.signal_and_noise(step)
    return a * x_0 + s * eps


def start(
    x_0: Tensor, eps: Tensor, scheduler: Scheduler, steps: Sequence[Step], strength: float
) -> Tensor:
    """The sample at the first of `steps`.

    At strength 1 nothing of the picture is left, as in text-to-image, even under a schedule whose
    last step keeps some signal (diffusers' image-to-image keeps it there, its inpainting does not).
    """
    if strength == 1.0:
        return eps * scheduler.init_noise_sigma
    return noised(x_0, eps, scheduler, steps[0])
