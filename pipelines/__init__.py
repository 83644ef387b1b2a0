"""What a user calls: `from latentdiff.pipelines import TextToImagePipeline`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentdiff.pipelines.batch import Picture, TextToImageResult
    from latentdiff.pipelines.png import read_recipe
    from latentdiff.pipelines.recipe import Recipe
    from latentdiff.pipelines.request import Request
    from latentdiff.pipelines.text_to_image import TextToImagePipeline

_HOMES = {
    "Picture": "batch",
    "Recipe": "recipe",
    "Request": "request",
    "TextToImagePipeline": "text_to_image",
    "TextToImageResult": "batch",
    "read_recipe": "png",
}
__all__ = [
    "Picture",
    "Recipe",
    "Request",
    "TextToImagePipeline",
    "TextToImageResult",
    "read_recipe",
]


def __getattr__(name: str) -> Any:
    """Load torch only when a pipeline is asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
