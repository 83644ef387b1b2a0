"""What a feed is: which sample each position of a run is, its image or latents, and its caption.

Scenes and the user's own images are feeds; both are pure functions of (run seed, position).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples at some positions, all of one size.

    captions: n strings, "" where the caption is dropped. Either images (n, H, W, 3) uint8 or
    moments (n, 2C, h, w) float32. contexts: n of (k·L, D) float32 where they are cached, k being
    the chunks that the caption takes.
    """

    captions: tuple[str, ...]
    images: NDArray[np.uint8] | None = None
    moments: NDArray[np.float32] | None = None
    contexts: tuple[NDArray[np.float32], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image (H, W, 3) uint8 for validation, with its caption, never dropped."""

    id: str
    image: NDArray[np.uint8]
    caption: str


class Feed(Protocol):
    """Where samples come from; see the module's docstring."""

    @property
    def summary(self) -> dict[str, Any]:
        """What the run's report says of the data; plain values."""
        ...

    @property
    def fingerprint(self) -> str:
        """What must be the same for a run to go on, on all its processes."""
        ...

    def samples(self, positions: Sequence[int]) -> Samples:
        """The samples at these positions; they share one size."""
        ...

    def names(self, positions: Sequence[int]) -> list[str]:
        """The ids of the samples at these positions, for a person."""
        ...

    def trained(self, count: int) -> list[Entry]:
        """At most `count` fixed images that are trained on."""
        ...

    def held_out(self, count: int) -> list[Entry]:
        """At most `count` fixed images that are not."""
        ...

    def prompts(self) -> tuple[str, ...]:
        """Prompts worth a sample sheet."""
        ...

    def words(self) -> tuple[str, ...]:
        """Words of the captions that a fresh text encoder may not have met; for a model's card."""
        ...
