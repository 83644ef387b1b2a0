"""A second, larger pass: what was drawn is enlarged and drawn over by image-to-image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from latentdiff.models.geometry import Geometry
from latentdiff.pipelines.request import Given
from latentdiff.pipelines.request_records import Source
from latentdiff.pipelines.walk.batch import Batch


def second_pass(batch: Batch, images: Sequence[Image.Image], geometry: Geometry) -> Batch:
    """Resolved requests that draw over the enlarged pictures, with the prompts and seeds of the
    first pass and its number of steps."""
    upscale = batch.shared.upscale
    assert upscale is not None
    requests = []
    for request, image in zip(batch.requests, images, strict=True):
        width, height = (
            max(geometry.coarsest, round(side * upscale.scale / geometry.factor) * geometry.factor)
            for side in image.size
        )
        large = image.resize((width, height), Image.Resampling.LANCZOS)
        given = request.given or Given()
        requests.append(
            replace(
                request,
                upscale=None,
                width=width,
                height=height,
                source=Source(strength=upscale.strength),
                given=replace(given, image=large, mask=None, latents=None),
            )
        )
    return Batch(tuple(requests), batch.places)
