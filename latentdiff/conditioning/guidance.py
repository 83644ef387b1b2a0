"""Classifier-free guidance (Ho & Salimans 2022) and its rescaling (Lin et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentdiff.conditioning.settings import Guidance as Guidance

Predict = Callable[[Tensor, Tensor | float, Tensor], Tensor]


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
    halves go through the network in one call. A network that says so (`repeats_rows`) is shown x_t
    once for both.
    """

    def __init__(self, denoiser: Predict, guidance: Guidance, timesteps: int = 1000) -> None:
        """timesteps: of the noise schedule, for a guidance that is limited to a part of them."""
        assert guidance.active, guidance
        self.denoiser = denoiser
        self.guidance = guidance
        self.timesteps = timesteps
        self._prompts: tuple[Tensor, Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype | None:
        """What the network computes in, if it says so."""
        return getattr(self.denoiser, "dtype", None)

    def __call__(self, x_t: Tensor, t: Tensor | float, context: Tensor) -> Tensor:
        if not self.guidance.at(float(t), self.timesteps):
            return self.denoiser(x_t, t, self._positive(context))
        shown = x_t if getattr(self.denoiser, "repeats_rows", False) else torch.cat([x_t, x_t])
        both = self.denoiser(shown, t, context)
        negative, positive = both.chunk(2)
        guided = combine(negative, positive, self.guidance.scale)
        if self.guidance.rescale > 0.0:
            guided = rescale(guided, positive, self.guidance.rescale)
        return guided

    def _positive(self, context: Tensor) -> Tensor:
        """The prompts' half; the same tensor for the same context."""
        if self._prompts is None or self._prompts[0] is not context:
            self._prompts = (context, context[len(context) // 2 :])
        return self._prompts[1]


class ComposedDenoiser:
    """Guidance by several prompts a picture: `(x_t (B, …), t, context (B + M, L, D))`.

    Liu et al. 2022 ("Compositional Visual Generation with Composable Diffusion Models"), equation
    11: ε = ε_∅ + w Σ_i w_i (ε_i - ε_∅), in Imagen's convention for the scale w. The context's first
    B rows belong to the negative prompts, the other M to the parts.
    """

    def __init__(
        self,
        denoiser: Predict,
        guidance: Guidance,
        owners: Sequence[int],
        weights: Sequence[float],
    ) -> None:
        """owners: the picture 0 … B - 1 of each of the M parts; weights: their w_i."""
        assert guidance.active and len(owners) == len(weights), (guidance, owners, weights)
        self.denoiser = denoiser
        self.guidance = guidance
        self.owners = torch.tensor(owners)
        self.weights = torch.tensor(weights, dtype=torch.float32)

    @property
    def dtype(self) -> torch.dtype | None:
        """What the network computes in, if it says so."""
        return getattr(self.denoiser, "dtype", None)

    def __call__(self, x_t: Tensor, t: Tensor | float, context: Tensor) -> Tensor:
        self.owners = owners = self.owners.to(x_t.device)
        self.weights = self.weights.to(x_t.device)
        found = self.denoiser(torch.cat([x_t, x_t[owners]]), t, context)
        negative, parts = found[: len(x_t)], found[len(x_t) :]
        weights = self.weights.to(found).view(-1, *[1] * (found.ndim - 1))
        pushes = weights * (parts - negative[owners])
        positive = negative.index_add(0, owners, pushes)
        guided = combine(negative, positive, self.guidance.scale)
        if self.guidance.rescale > 0.0:
            guided = rescale(guided, positive, self.guidance.rescale)
        return guided
