"""Classifier-free guidance (Ho & Salimans 2022) and its rescaling (Lin et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.errors import UserError

Predict = Callable[[Tensor, Tensor | int, Tensor], Tensor]


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


def combine(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """ε_∅ + w (ε_c - ε_∅) for predictions of one shape."""
    return negative + scale * (positive - negative)


def rescale(guided: Tensor, positive: Tensor, amount: float) -> Tensor:
    """Bring the guided prediction's standard deviation towards the conditional one's.

    Lin et al. 2023 ("Common diffusion noise schedules and sample steps are flawed"), equations
    15 and 16; amount is their φ. Standard deviations are per sample, over all other axes.
    """
    axes = tuple(range(1, guided.ndim))
    ratio = positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return amount * (guided * ratio) + (1.0 - amount) * guided


class GuidedDenoiser:
    """A denoiser with guidance inside: `(x_t (B, …), t, context (2B, L, D)) -> prediction (B, …)`.

    The context's first half belongs to the negative prompts, the second to the prompts; both
    halves go through the network in one call.
    """

    def __init__(self, denoiser: Predict, guidance: Guidance) -> None:
        assert guidance.active, guidance
        self.denoiser = denoiser
        self.guidance = guidance

    @property
    def dtype(self) -> torch.dtype | None:
        """What the network computes in, if it says so."""
        return getattr(self.denoiser, "dtype", None)

    def __call__(self, x_t: Tensor, t: Tensor | int, context: Tensor) -> Tensor:
        both = self.denoiser(torch.cat([x_t, x_t]), t, context)
        negative, positive = both.chunk(2)
        guided = combine(negative, positive, self.guidance.scale)
        if self.guidance.rescale > 0.0:
            guided = rescale(guided, positive, self.guidance.rescale)
        return guided
