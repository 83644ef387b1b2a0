"""What is in every picture file, remembered by its stamp: SHA-256, width and height.

Cache keys need the hash of a picture's bytes, buckets its size; both would mean to read a whole
data set at every start. `Source.stamp` changes when the bytes may have changed, so a file is read
again only then. A file's stamp holds its size and both of its times, of content and of status, and
the latter is the kernel's to set; a disk that has no such times is what `reread` is for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.cache.build import Bad, Progress, Team, build
from latentdiff.data.cache.keys import Keys, stack, stamp_key
from latentdiff.data.cache.latent_cache import CONTENTS, LatentCache
from latentdiff.data.records import BadPicture, Source

_SHA, _SIZE = 32, 4
ROW_BYTES = _SHA + 2 * _SIZE

Measure = Callable[[bytes], tuple[int, int]]
"""Width and height of an encoded picture as it will be seen (EXIF applied); BadPicture if none."""


@dataclass(frozen=True)
class Contents:
    """What a source's rows hold.

    digests (n, 32) uint8: SHA-256 of the encoded pictures. sizes (n, 2) int32: width, height.
    Both are zero for the rows of `bad`. keys (n, 16): of the rows' stamps.
    """

    digests: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    keys: Keys
    bad: Mapping[int, BadPicture]

    def __len__(self) -> int:
        return len(self.digests)

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE2b of all pictures in their order, 64 hexadecimal digits."""
        return hashlib.blake2b(self.digests.tobytes(), digest_size=32).hexdigest()


def scan(
    cache: LatentCache,
    source: Source,
    measure: Measure,
    *,
    team: Team | None = None,
    reread: bool = False,
    workers: int = 4,
    progress: Progress | None = None,
) -> Contents:
    """Hash and measure the source's pictures, reading only those that the cache does not know.

    All processes of `team` call it and share the reading. reread: forget, and read them all.
    Bad pictures are not remembered: they are tried again at the next start.
    """
    team = team or Team()
    store = cache.store(CONTENTS)
    if team.rank == 0:
        store.remove_damaged()
    if reread:
        if team.rank == 0:
            for shard in store.shards:
                shard.path.unlink(missing_ok=True)
        team.meet(cache.folder, CONTENTS, {})
        cache.forget(CONTENTS)
        store = cache.store(CONTENTS)
    keys, bad = _stamps(source)
    good = rows_without(len(source), bad)
    failed = build(
        store,
        keys[good],
        lambda i: _read(source, int(good[i]), measure),
        list,
        team=team,
        batch_size=256,
        name=lambda i: source.id(int(good[i])),
        workers=workers,
        progress=progress,
    )
    return _gather(cache, keys, good, bad, failed)


def read_all(
    source: Source, measure: Measure, *, workers: int = 8, progress: Progress | None = None
) -> Contents:
    """Hash and measure all pictures, where no cache remembers them."""
    rows = np.zeros((len(source), ROW_BYTES), np.uint8)
    bad: dict[int, BadPicture] = {}

    def look(row: int) -> None:
        try:
            rows[row] = _read(source, row, measure)
        except BadPicture as problem:
            bad[row] = problem

    with ThreadPoolExecutor(workers) as threads:
        for done, _ in enumerate(threads.map(look, range(len(source))), 1):
            if progress is not None:
                progress(done, len(source))
    return _contents(rows, np.zeros((len(source), 16), np.uint8), bad)


def _stamps(source: Source) -> tuple[Keys, dict[int, BadPicture]]:
    bad: dict[int, BadPicture] = {}

    def key(row: int) -> bytes:
        try:
            return stamp_key(source.stamp(row))
        except BadPicture as error:
            bad[row] = error
        except OSError as error:
            bad[row] = BadPicture("unreadable", f"cannot be read ({error.strerror})")
        return bytes(16)

    return stack(key(row) for row in range(len(source))), bad


def _read(source: Source, row: int, measure: Measure) -> NDArray[np.uint8]:
    data = source.read(row)
    width, height = measure(data)
    sizes = np.array([width, height], "<i4").tobytes()
    return np.frombuffer(digest(data) + sizes, np.uint8)


def rows_without(count: int, bad: Collection[int]) -> NDArray[np.int64]:
    """Rows 0 … count - 1 that are not among the bad."""
    good = np.ones(count, bool)
    good[list(bad)] = False
    return np.flatnonzero(good)


def digest(data: bytes) -> bytes:
    """SHA-256 of an encoded picture, 32 bytes."""
    return hashlib.sha256(data).digest()


def _gather(
    cache: LatentCache,
    keys: Keys,
    good: NDArray[np.int64],
    bad: dict[int, BadPicture],
    failed: Bad,
) -> Contents:
    store = cache.store(CONTENTS)
    found = np.full(len(keys), -1, np.int64)
    found[good] = store.find(keys[good])
    known = np.flatnonzero(found >= 0)
    for row in good[found[good] < 0].tolist():
        bad[row] = failed[keys[row].tobytes()]
    rows = np.zeros((len(keys), ROW_BYTES), np.uint8)
    if len(known):
        rows[known] = store.rows(found[known])
    return _contents(rows, keys, bad)


def _contents(rows: NDArray[np.uint8], keys: Keys, bad: dict[int, BadPicture]) -> Contents:
    """rows: (n, ROW_BYTES), of zeros where nothing is known."""
    digests = np.ascontiguousarray(rows[:, :_SHA])
    sizes = np.ascontiguousarray(rows[:, _SHA:]).view("<i4")
    return Contents(digests, sizes, keys, dict(sorted(bad.items())))
