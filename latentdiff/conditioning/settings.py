"""What may be asked of text and guidance, checked without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from latentdiff.errors import UserError

Long = Literal["truncate", "chunk"]
"""What becomes of prompts over the limit: cut there, or encoded in pieces side by side."""
Syntax = Literal["a1111", "comfyui", "plain"]
"""How a prompt is read, and how its weights are applied; plain: every character is text."""
SYNTAXES: tuple[Syntax, ...] = ("a1111", "comfyui", "plain")


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How far to push from the negative prompt towards the prompt.

    scale: w in ε = ε_∅ + w (ε_c - ε_∅), Imagen's convention; at 1 or below there is no second pass.
    rescale: φ in [0, 1] of Lin et al. 2023, section 3.4; 0 leaves the prediction as it is.
    """

    scale: float = 7.5
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.scale <= 1000.0:
            raise UserError(f"guidance scale {self.scale} is out of range; expected 0 … 1000")
        if not 0.0 <= self.rescale <= 1.0:
            raise UserError(f"guidance rescale {self.rescale} is out of range; expected 0 … 1")

    @property
    def active(self) -> bool:
        """Whether a second, negative pass of the network is needed."""
        return self.scale > 1.0
