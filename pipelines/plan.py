"""What one call of a pipeline resolves to, what it yields on the way, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image
from torch import Tensor

from latentdiff.conditioning.guidance import Guidance
from latentdiff.conditioning.text import Long
from latentdiff.models.preview import Preview
from latentdiff.schedulers.protocol import Scheduler


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One call, checked and resolved, before anything is computed; a row of each tuple a picture.

    latents: x_T (B, C, h, w) of unit variance, or None to draw it from the seeds.
    recipe: everything that makes the pictures again, fit for JSON. dropped_words: prompt → the
    words that the tokenizer's limit cuts off, for prompts that lose any. long_prompts: what becomes
    of prompts over that limit.
    """

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    height: int
    width: int
    guidance: Guidance
    scheduler: Scheduler
    latents: Tensor | None
    recipe: Mapping[str, Any]
    dropped_words: Mapping[str, tuple[str, ...]]
    long_prompts: Long = "truncate"

    def recipe_of(self, index: int) -> dict[str, Any]:
        """The recipe of one picture alone."""
        own = {
            "prompt": self.prompts[index],
            "negative_prompt": self.negative_prompts[index],
            "seed": self.seeds[index],
        }
        shared = {k: v for k, v in self.recipe.items() if k not in ("prompts", "seeds")}
        return {**own, **{k: v for k, v in shared.items() if k != "negative_prompts"}}

    def split(self, size: int) -> list[Plan]:
        """The same pictures in batches of at most `size`, each a plan of its own."""
        parts = []
        for first in range(0, len(self.prompts), size):
            rows = slice(first, first + size)
            own = {"prompts": self.prompts, "negative_prompts": self.negative_prompts}
            recipe = {**self.recipe, "seeds": list(self.seeds[rows])}
            recipe |= {name: list(values[rows]) for name, values in own.items()}
            parts.append(
                replace(
                    self,
                    prompts=self.prompts[rows],
                    negative_prompts=self.negative_prompts[rows],
                    seeds=self.seeds[rows],
                    latents=None if self.latents is None else self.latents[rows],
                    recipe=recipe,
                )
            )
        return parts


@dataclass(frozen=True)
class PipelineStep:
    """After step `index` of `total` (told t): latents (B, C, h, w) now, and x_0 it aimed at."""

    index: int
    total: int
    t: int | float
    latents: Tensor
    x_0: Tensor
    _preview: Preview | None = field(repr=False)
    _factor: int = field(repr=False)

    def previews(self) -> list[Image.Image]:
        """Cheap pictures of x_0 at full size, by one matrix; empty for a model without one."""
        if self._preview is None:
            return []
        height, width = self.x_0.shape[-2:]
        return self._preview.images(self.x_0, (width * self._factor, height * self._factor))


@dataclass(frozen=True, kw_only=True)
class TextToImageResult:
    """images: PIL, RGB, in the order of the prompts, each prompt's pictures together; latents:
    (B, C, h, w) float32, scaled; seeds: of each picture; recipe: what makes them again;
    dropped_words: prompt → the words that the tokenizer's limit cut off."""

    images: list[Image.Image]
    latents: Tensor
    seeds: tuple[int, ...]
    recipe: Mapping[str, Any]
    dropped_words: Mapping[str, tuple[str, ...]]
