"""A filled latent cache as a training reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.cache.keys import stack, text_key
from latentdiff.data.cache.latent_cache import LatentCache, Store
from latentdiff.data.cache.shards import DamagedShard
from latentdiff.data.records import BadPicture


class CacheView:
    """What a training reads of a cache: moments by row of its source, contexts by caption.

    Travels to data-loader workers without the values. bad: rows that have no moments, and why.
    """

    def __init__(
        self,
        moments: Store,
        contexts: Store | None,
        entries: tuple[NDArray[np.int64], ...],
        text_id: str,
        bad: Mapping[int, BadPicture],
        lock: LatentCache | None = None,
    ) -> None:
        self._moments, self._contexts = moments, contexts
        self._entries, self._text_id, self._lock = entries, text_id, lock
        self.bad = bad

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __len__(self) -> int:
        """Rows of the source."""
        return len(self._entries[0])

    @property
    def has_contexts(self) -> bool:
        """Whether captions were cached too."""
        return self._contexts is not None

    def moments(self, row: int, flip: bool = False) -> NDArray[np.float32]:
        """Moments (2C, h, w) float32 of a row, of its mirrored picture if `flip` is set.

        Raises BadPicture for a row of `bad`, and when the entry was damaged on disk since.
        """
        if row in self.bad:
            raise self.bad[row]
        assert flip < len(self._entries), "flipped pictures were not asked for"
        return _read(self._moments, int(self._entries[flip][row]))

    def context(self, caption: str) -> NDArray[np.float32]:
        """Context (k·L, D) float32 of a caption, k being the chunks that it takes (else 1).

        Raises KeyError for a caption that no row of the source has, and BadPicture when the entry
        was damaged on disk since.
        """
        assert self._contexts is not None, "captions were not cached"
        entry = int(self._contexts.find(stack([text_key(caption, self._text_id)]))[0])
        if entry < 0:
            raise KeyError(caption)
        return _read(self._contexts, entry)


def _read(store: Store, entry: int) -> NDArray[np.float32]:
    try:
        return store.read(entry).astype(np.float32, copy=False)
    except DamagedShard as error:
        raise BadPicture(
            "cache-damaged", f"{error}; `latentdiff data cache verify --repair` removes it"
        ) from error
