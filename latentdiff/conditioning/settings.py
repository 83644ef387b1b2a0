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
    start, end: shares of the way from noise to picture between which there is guidance
    (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval"); elsewhere the prompt
    alone is asked, in half the time.
    """

    scale: float = 7.5
    rescale: float = 0.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.scale <= 1000.0:
            raise UserError(f"guidance scale {self.scale} is out of range; expected 0 … 1000")
        if not 0.0 <= self.rescale <= 1.0:
            raise UserError(f"guidance rescale {self.rescale} is out of range; expected 0 … 1")

        if not 0.0 <= self.start < self.end <= 1.0:
            raise UserError(
                f"guidance from {self.start:g} to {self.end:g} of the way is out of range; "
                "expected 0 ≤ start < end ≤ 1"
            )

    def at(self, t: float, timesteps: int) -> bool:
        """Whether the step at timestep t of so many is guided."""
        return self.start <= 1.0 - t / timesteps <= self.end

    @property
    def active(self) -> bool:
        """Whether a second, negative pass of the network is needed."""
        return self.scale > 1.0
