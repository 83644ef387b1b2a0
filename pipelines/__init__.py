"""What a user calls: `from latentdiff.pipelines import TextToImagePipeline`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentdiff.pipelines.recipes.picture_file import read_recipe
    from latentdiff.pipelines.recipes.recipe import Recipe
    from latentdiff.pipelines.request import Request
    from latentdiff.pipelines.request_records import (
        Blend,
        Embeds,
        Inpaint,
        Inversion,
        Source,
        Upscale,
    )
    from latentdiff.pipelines.text_to_image import TextToImagePipeline
    from latentdiff.pipelines.walk.batch import Picture, TextToImageResult

_HOMES = {
    "Blend": "request_records",
    "Embeds": "request_records",
    "Inpaint": "request_records",
    "Inversion": "request_records",
    "Picture": "walk.batch",
    "Recipe": "recipes.recipe",
    "Request": "request",
    "Source": "request_records",
    "TextToImagePipeline": "text_to_image",
    "TextToImageResult": "walk.batch",
    "Upscale": "request_records",
    "read_recipe": "recipes.picture_file",
}
__all__ = [
    "Blend",
    "Embeds",
    "Inpaint",
    "Inversion",
    "Picture",
    "Recipe",
    "Request",
    "Source",
    "TextToImagePipeline",
    "TextToImageResult",
    "Upscale",
    "read_recipe",
]


def __getattr__(name: str) -> Any:
    """Load torch only when a pipeline is asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
