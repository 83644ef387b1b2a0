"""Deep features kept from step to step (DeepCache, Ma et al. 2024, "DeepCache: Accelerating
Diffusion Models for Free", section 3.2): approximate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class DeepCache:
    """What one walk keeps of a U-Net: the features that its last level is handed from below.

    They change slowly along a walk. Of every `interval` calls the first goes through the whole
    network; the others compute the first and the last level alone (the paper's uniform 1:N, at its
    shallowest branch). A call about samples of another shape, or with another number of rows (where
    guidance begins or ends), goes through the whole network too.
    """

    def __init__(self, interval: int) -> None:
        """interval: N; 1 keeps nothing."""
        assert interval >= 1, interval
        self.interval = interval
        self._kept: tuple[Tensor, tuple[int, ...]] | None = None
        self._served = 0

    def due(self, shape: Sequence[int], rows: int) -> Tensor | None:
        """The features to go on with at a call about samples of `shape` at the end of the first
        level and `rows` of a context; None where they are to be computed."""
        if self._kept is None or self._served >= self.interval - 1:
            return None
        features, told = self._kept
        if told != (rows, *shape):
            return None
        self._served += 1
        return features

    def keep(self, features: Tensor, shape: Sequence[int], rows: int) -> None:
        """Keep what such a call computed."""
        self._kept, self._served = (features, (rows, *shape)), 0
