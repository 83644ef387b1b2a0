"""Latents of scenes or of a data set's pictures, each with the context of its caption."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import latentdiff.pipelines.walk.prompting as prompting
from latentdiff.conditioning.guidance import Predict
from latentdiff.errors import UserError
from latentdiff.evaluation.protocol import Item
from latentdiff.measure.drawing import Drawing, Picture, scene_size
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.picture_sets import Made, PictureSet
from latentdiff.pipelines.walk.batch import batches
from latentdiff.pixels import to_pixels
from latentdiff.sampling import ContextAt


@dataclass(frozen=True, kw_only=True)
class ConditionedLatents:
    """rows: of the set; pictures: (N, H, W, 3); latents: (N, C, h, w) float32, its mode.

    denoiser: the model's, with the guidance that was asked for; context: what it is told of the N
    captions.
    """

    rows: list[int]
    pictures: list[Picture]
    latents: Tensor
    denoiser: Predict
    context: Tensor | ContextAt

    def predict(self) -> Callable[[Tensor, Tensor], Tensor]:
        """(x_t (N, …), t (N,)) → the network's answer, for the captions of all N."""
        context = self.context if isinstance(self.context, Tensor) else self.context(0, 1)

        def answer(x_t: Tensor, t: Tensor) -> Tensor:
            return self.denoiser(x_t.float(), t, context)

        return answer


@torch.no_grad()
def encode(
    model: MeasuredModel, pictures: PictureSet, items: Sequence[Item], rows: range, drawing: Drawing
) -> ConditionedLatents:
    """Rows of a set, encoded, with their captions' contexts. items: the set's captions, by row."""
    made: Made = pictures.make(rows)
    if not made.pictures:
        raise UserError(
            f"no picture of {pictures.name} in rows {rows.start} … {rows.stop} is readable"
        )
    side = scene_size(model.pipeline)
    fitted = [_fitted(picture, side) for picture in made.pictures]
    autoencoder = model.pipeline.autoencoder
    pixels = to_pixels(np.stack(fitted)).contiguous().to(autoencoder.device, autoencoder.dtype)
    latents = autoencoder.mode(autoencoder.encode_moments(pixels)).float()
    requests = [
        dataclasses.replace(drawing.request, prompt=items[row].prompt, seed=items[row].seed)
        for row in made.rows
    ]
    (batch,) = batches(model.pipeline.resolve(requests), len(requests))
    denoiser, context = prompting.condition(model.pipeline.bundle, model.pipeline.unet, batch)
    return ConditionedLatents(
        rows=made.rows, pictures=fitted, latents=latents, denoiser=denoiser, context=context
    )


def _fitted(picture: Picture, side: int) -> Any:
    if picture.shape[:2] == (side, side):
        return picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
