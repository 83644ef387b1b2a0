"""What a user calls: `from latentdiff.pipelines import TextToImagePipeline`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentdiff.pipelines.text_to_image import TextToImagePipeline, TextToImageResult

__all__ = ["TextToImagePipeline", "TextToImageResult"]


def __getattr__(name: str) -> Any:
    """Load torch only when a pipeline is asked for."""
    if name in __all__:
        from latentdiff.pipelines import text_to_image

        return getattr(text_to_image, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
