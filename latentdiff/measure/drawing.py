"""The pictures that are measured: the generator's, the world's own, and reconstructions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from latentdiff.errors import UserError
from latentdiff.evaluation.judge_network import batches
from latentdiff.evaluation.protocol import EVALUATION_WORLD_SEED, Item
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.text_to_image import OnStep, TextToImagePipeline
from latentdiff.pixels import to_pictures, to_pixels

Picture = NDArray[np.uint8]
"""(H, W, 3)."""
Progress = Callable[[int, int], None]
"""(done, total)."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How pictures are drawn: `request` with another prompt and seed for each."""

    request: Request = field(
        # A caption is text: its brackets, if it has any, weigh nothing.
        default_factory=lambda: Request(prompt="", scheduler="ddim", prompt_syntax="plain")
    )
    batch_size: int = 16
    progress: Progress | None = None
    on_step: OnStep | None = None

    def items(self, pipeline: TextToImagePipeline, items: Sequence[Item]) -> Iterator[Picture]:
        """The generator's pictures of the items, in their order."""
        requests = [
            dataclasses.replace(self.request, prompt=item.prompt, seed=item.seed) for item in items
        ]
        drawn = pipeline.draw(requests, batch_size=self.batch_size, on_step=self.on_step)
        for done, picture in enumerate(drawn, 1):
            if self.progress is not None:
                self.progress(done, len(requests))
            yield np.asarray(picture.image)

    def resolved(self, pipeline: TextToImagePipeline) -> Request:
        """The request with the model's defaults, for a report."""
        return pipeline.resolve([dataclasses.replace(self.request, seed=0)])[0]


def scene_size(pipeline: TextToImagePipeline) -> int:
    """Side in pixels of the scenes that a model is measured on: its own, if it is square."""
    own = pipeline.geometry.own_size
    if own is None or own[0] != own[1]:
        raise UserError(
            f"the model's own size is {own}; scenes are square, so a square size is needed"
        )
    return own[0]


def renders(items: Sequence[Item], size: int) -> list[Picture]:
    """The world's pictures (size, size, 3) of the items: what a perfect generator could draw."""
    from latentdiff.scenes.catalog import SUBJECTS
    from latentdiff.scenes.world import World

    world = World(EVALUATION_WORLD_SEED, size=size, subjects=tuple(SUBJECTS), hold_out_pairs=False)
    return [
        world.compose(item.subjects, item.setting, item.index, relation=item.relation).image
        for item in items
    ]


@torch.inference_mode()
def reconstruct(
    pipeline: TextToImagePipeline, pictures: Iterable[Picture], batch_size: int = 16
) -> list[Picture]:
    """Pictures through the autoencoder and back, by the posterior's mode, in its own precision."""
    autoencoder = pipeline.autoencoder
    restored: list[Picture] = []
    for batch in batches(pictures, batch_size):
        pixels = to_pixels(np.stack(batch)).contiguous().to(autoencoder.device, autoencoder.dtype)
        latents = autoencoder.mode(autoencoder.encode_moments(pixels))
        restored += list(to_pictures(autoencoder.decode(latents).float()))
    return restored
