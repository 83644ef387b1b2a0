"""Requests that are drawn together, what the walk yields on the way, and what it gives."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.models.preview import Preview
from latentdiff.pipelines.recipes.picture_file import save_picture
from latentdiff.pipelines.recipes.recipe import Recipe
from latentdiff.pipelines.request import Request


@dataclass(frozen=True)
class Batch:
    """Resolved requests that differ in nothing but prompts, seeds and given latents.

    places: where each stands in the list that was asked for.
    """

    requests: tuple[Request, ...]
    places: tuple[int, ...]

    def __post_init__(self) -> None:
        keys = {request.batch_key() for request in self.requests}
        assert len(keys) == 1, f"{len(keys)} kinds of requests in one batch"

    @property
    def shared(self) -> Request:
        """The first request, for what they all have in common."""
        return self.requests[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of each picture."""
        return tuple(request.seed for request in self.requests if request.seed is not None)


def batches(requests: Sequence[Request], size: int) -> list[Batch]:
    """Resolved requests in batches of at most `size`, in the order of their first pictures."""
    if size < 1:
        raise UserError(f"batch_size is {size}; expected at least 1")
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(request.batch_key(), []).append(place)
    found = [
        Batch(tuple(requests[k] for k in part), tuple(part))
        for places in groups.values()
        for part in (places[first : first + size] for first in range(0, len(places), size))
    ]
    return sorted(found, key=lambda batch: batch.places[0])


@dataclass(frozen=True)
class PipelineStep:
    """After step `index` of `total` (told t): latents (B, C, h, w) now, and x_0 it aimed at.

    places: where the pictures of this batch stand in the list that was asked for.
    """

    index: int
    total: int
    t: int | float
    latents: Tensor
    x_0: Tensor
    places: tuple[int, ...]
    _preview: Preview | None = field(repr=False)
    _factor: int = field(repr=False)

    def previews(self) -> list[Image.Image]:
        """Cheap pictures of x_0 at full size, by one matrix; empty for a model without one."""
        if self._preview is None:
            return []
        height, width = self.x_0.shape[-2:]
        return self._preview.images(self.x_0, (width * self._factor, height * self._factor))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """image: PIL, RGB. latents: (C, h, w) float32, scaled. recipe: what makes it again."""

    image: Image.Image
    latents: Tensor
    recipe: Recipe

    @property
    def request(self) -> Request:
        """What was drawn, all defaults filled in."""
        return self.recipe.request

    def save(self, path: str | Path) -> Path:
        """Write a PNG, JPEG or WebP that keeps the recipe; returns its absolute path."""
        return save_picture(self.image, path, self.recipe)


@dataclass(frozen=True, kw_only=True)
class TextToImageResult:
    """Pictures in the order of the prompts, each prompt's together.

    latents: (B, C, h, w) float32, scaled. dropped_words: prompt → the words that the tokenizer's
    limit cut off.
    """

    pictures: tuple[Picture, ...]
    latents: Tensor
    dropped_words: Mapping[str, tuple[str, ...]]

    @property
    def images(self) -> list[Image.Image]:
        """The PIL pictures. `image.save` forgets the recipe; `result.save` keeps it."""
        return [picture.image for picture in self.pictures]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of each picture."""
        return tuple(p.request.seed for p in self.pictures if p.request.seed is not None)

    @property
    def recipe(self) -> Recipe:
        """The first picture's recipe."""
        return self.pictures[0].recipe

    def save(self, path: str | Path) -> list[Path]:
        """Write pictures that keep their recipes; several get their seeds in the names."""
        place = Path(path)
        if len(self.pictures) == 1:
            return [self.pictures[0].save(place)]
        names = [place.with_name(f"{place.stem}-{seed}{place.suffix}") for seed in self.seeds]
        if len(set(names)) < len(names):
            names = [place.with_name(f"{n.stem}-{k}{n.suffix}") for k, n in enumerate(names)]
        return [p.save(name) for p, name in zip(self.pictures, names, strict=True)]


def in_order(drawn: Iterator[tuple[Batch, list[Picture]]], count: int) -> Iterator[Picture]:
    """Pictures in the order they were asked for; those that come early wait for their turn."""
    waiting: dict[int, Picture] = {}
    turn = 0
    for batch, pictures in drawn:
        waiting.update(zip(batch.places, pictures, strict=True))
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1
    assert turn == count, f"{count - turn} pictures were not drawn"


def warn_of(lines: Sequence[str], stacklevel: int) -> None:
    """Each line as a warning."""
    for line in lines:
        warnings.warn(line, stacklevel=stacklevel + 1)
