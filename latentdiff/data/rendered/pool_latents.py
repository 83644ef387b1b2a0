"""Posterior moments of a pool's pictures, computed once and memory-mapped.

    cache.json     what the moments were made from: encoder hash, pool fingerprint, shape
    moments.npy    (N, 2C, h, w): mean, then log variance, of the raw latent

The key is content: another encoder, or one picture changed, and the cache is refused as stale.
Moments are kept in half precision by default: rounding is 2^-11 of a value, far below the
posterior's own standard deviation.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff import files
from latentdiff.data.rendered.pixel_pool import PixelPool
from latentdiff.errors import UserError

META, MOMENTS = "cache.json", "moments.npy"

Encode = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""Pictures (n, S, S, 3) uint8 to posterior moments (n, 2C, h, w)."""


class PoolLatents:
    """Read access to cached moments."""

    def __init__(self, folder: str | Path, *, encoder_hash: str, fingerprint: str) -> None:
        """Open the cache in `folder`.

        Raises UserError when there is none, or when it was made by another encoder or from
        other pictures than `encoder_hash` and `fingerprint` name.
        """
        self.folder = Path(folder)
        self.encoder_hash, self.fingerprint = encoder_hash, fingerprint
        found = _read_meta(self.folder)
        for key, value in (("encoder_hash", encoder_hash), ("fingerprint", fingerprint)):
            if found.get(key) != value:
                what = "another encoder" if key == "encoder_hash" else "other pictures"
                raise UserError(
                    f"the latent cache in {self.folder} is stale: it was made from {what} "
                    f"({str(found.get(key))[:12]}…, not {value[:12]}…); remove it and encode again"
                )
        self._moments = np.load(self.folder / MOMENTS, mmap_mode="r")

    def __getstate__(self) -> dict[str, object]:
        """Another process maps the file anew; a memory map would be copied whole."""
        return {name: x for name, x in self.__dict__.items() if name != "_moments"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._moments = np.load(self.folder / MOMENTS, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._moments)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (2C, h, w) of one row's moments."""
        return tuple(self._moments.shape[1:])

    def moments(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Moments (n, 2C, h, w) float32 of some rows."""
        return self._moments[rows].astype(np.float32)


def build_pool_latents(
    folder: str | Path,
    pool: PixelPool,
    encode: Encode,
    *,
    encoder_hash: str,
    batch_size: int = 256,
    half: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> PoolLatents:
    """Encode every picture of a complete pool; the cache counts once its `cache.json` is there."""
    count = len(pool)
    fingerprint = pool.fingerprint
    folder = Path(folder)
    with files.FolderLock(folder):
        # Without its description the moments are nothing, so that goes first and comes last.
        (folder / META).unlink(missing_ok=True)
        out: NDArray[np.floating] | None = None
        for first, last, pictures in _read_ahead(pool, batch_size):
            moments = encode(pictures)
            if not np.isfinite(moments).all():
                raise UserError(f"the encoder gave non-finite moments in rows {first} … {last - 1}")
            if out is None:
                out = np.lib.format.open_memmap(
                    folder / MOMENTS,
                    mode="w+",
                    dtype=np.float16 if half else np.float32,
                    shape=(count, *moments.shape[1:]),
                )
            out[first:last] = moments
            if progress is not None:
                progress(last, count)
        assert out is not None
        files.write_json(
            folder / META,
            {
                "encoder_hash": encoder_hash,
                "fingerprint": fingerprint,
                "shape": list(out.shape),
                "dtype": str(out.dtype),
            },
        )
    return PoolLatents(folder, encoder_hash=encoder_hash, fingerprint=fingerprint)


def _read_ahead(
    pool: PixelPool, batch_size: int, depth: int = 4
) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """(first, last, pictures) of all batches in order, copied by other threads meanwhile."""
    count = len(pool)
    spans = [(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]
    with ThreadPoolExecutor(depth) as threads:
        jobs: deque[tuple[int, int, Future[NDArray[np.uint8]]]] = deque()
        for first, last in [*spans, *[(-1, -1)] * depth]:
            if first >= 0:
                jobs.append((first, last, threads.submit(pool.pictures, range(first, last))))
            if len(jobs) > depth or (first < 0 and jobs):
                begin, end, job = jobs.popleft()
                yield begin, end, job.result()


def _read_meta(folder: Path) -> dict[str, object]:
    try:
        return dict(json.loads((folder / META).read_text("utf-8")))
    except FileNotFoundError:
        raise UserError(f"no latent cache in {folder}; encode the pool first") from None
    except ValueError as error:
        raise UserError(f"{folder / META} cannot be read ({error}); remove the folder") from error
