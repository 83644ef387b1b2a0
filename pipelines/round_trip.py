"""How well an inversion comes back to its picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

import latentdiff.pipelines.from_pictures.image_to_image as image_to_image
from latentdiff.pipelines.from_pictures.inversion import psnr
from latentdiff.pipelines.from_pictures.sources import canvas_of
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.text_to_image import TextToImagePipeline


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """Latents of a picture after the walk to their noise and back, against themselves.

    latent_error: root mean square difference, of latents of about unit variance. psnr: in dB,
    between the two decoded; inf where they are equal.
    """

    latent_error: float
    psnr: float

    def line(self) -> str:
        """For the person who edits."""
        return (
            f"inversion: back at the picture it differs by {self.psnr:.1f} dB PSNR "
            f"(latents: {self.latent_error:.2g} RMS)"
        )


@torch.no_grad()
def measure(pipeline: TextToImagePipeline, request: Request) -> RoundTrip:
    """Invert a request's picture and draw it again by the inversion's prompt and guidance."""
    assert request.source is not None and request.source.inversion is not None
    by = request.source.inversion
    (same,) = pipeline.resolve(
        [replace(request, prompt=by.prompt, guidance_scale=by.guidance_scale, blend=None)]
    )
    canvas = canvas_of(same, pipeline.geometry)
    latents = image_to_image.encode(pipeline.autoencoder, [canvas.drawn])
    (back,) = pipeline.draw([same])
    dtype = pipeline.autoencoder.dtype
    one = pipeline.autoencoder.decode(latents.to(dtype)).float()
    other = pipeline.autoencoder.decode(back.latents[None].to(dtype)).float()
    error = float((back.latents[None] - latents).square().mean().sqrt())
    return RoundTrip(latent_error=error, psnr=psnr(one, other))
