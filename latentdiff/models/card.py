"""What a model's card, its `snowglobe.json`, says of how it likes to be drawn with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentdiff.errors import UserError

STEPS, GUIDANCE = 50, 7.5
"""Where a card says nothing: Stable Diffusion's own."""


def default_steps(card: Mapping[str, Any]) -> int:
    """Steps when none are asked for. UserError when the card holds no whole number."""
    steps = card.get("num_inference_steps", STEPS)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UserError(f"the model's num_inference_steps is {steps!r}; a whole number expected")
    return steps


def default_guidance_scale(card: Mapping[str, Any]) -> float:
    """Guidance when none is asked for. UserError when the card holds no number."""
    scale = card.get("guidance_scale", GUIDANCE)
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise UserError(f"the model's guidance_scale is {scale!r}; a number was expected")
    return float(scale)
