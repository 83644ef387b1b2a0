"""Cleaning a latent cache: what no use wants goes, what is damaged is found.

New shards are published before old ones are deleted, so that a cleaning which is killed leaves
every wanted entry in the cache, some of them twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.cache import uses as cache_uses
from latentdiff.data.cache.build import SHARD_BYTES, sweep_builds
from latentdiff.data.cache.keys import Keys
from latentdiff.data.cache.latent_cache import KINDS, LatentCache, Store
from latentdiff.data.cache.shards import Array, DamagedShard, check_whole, read_entry, write_shard
from latentdiff.data.cache.uses import Use

SMALL_SHARD_BYTES = SHARD_BYTES // 8
"""Shards below this size are put together."""


@dataclass(frozen=True)
class Cleaned:
    """What a cleaning did to the entries of one kind, or would do."""

    kind: str
    kept: int
    dropped: int
    shards_before: int
    shards_after: int
    bytes_freed: int
    damaged: tuple[str, ...]


def collect(
    cache: LatentCache,
    keep: Iterable[Use],
    *,
    dry_run: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> list[Cleaned]:
    """Delete every entry that no use in `keep` wants, and the uses that are not among them.

    cache: opened with `alone=True`, unless dry_run. Shards of which everything is wanted stay as
    they are; the wanted rest of others, and of small ones, is moved into new shards. Damaged
    shards are deleted, damaged entries left behind; the next build makes them again.
    """
    keep = list(keep)
    wanted: dict[str, list[Keys]] = {kind: [] for kind in KINDS}
    for use in keep:
        for kind, keys in cache_uses.keys_of(use).items():
            wanted[kind].append(keys)
    if not dry_run:
        sweep_builds(cache.folder)
        kept = {use.id for use in keep}
        for use in cache_uses.listed(cache):
            if use.id not in kept:
                use.path.unlink(missing_ok=True)
    found = []
    for kind in KINDS:
        keys = np.concatenate(wanted[kind]) if wanted[kind] else np.empty((0, 16), np.uint8)
        found.append(_collect(cache.store(kind), keys, dry_run, shard_bytes))
        cache.forget(kind)
    return found


def _collect(store: Store, wanted: Keys, dry_run: bool, shard_bytes: int) -> Cleaned:
    # A wanted key keeps the entry that a reader would find: duplicates of it go too.
    entries = store.find(wanted)
    live = np.zeros(len(store), bool)
    live[entries[entries >= 0]] = True
    starts = np.cumsum([0, *(len(s.index) for s in store.shards)])
    parts = [live[a:b] for a, b in pairwise(starts)]
    sizes = [shard.bytes for shard in store.shards]
    small = [k for k, size in enumerate(sizes) if size < SMALL_SHARD_BYTES and parts[k].any()]
    small = small if len(small) > 1 else []
    moved = [k for k, part in enumerate(parts) if not part.all() or k in small]
    before = sum(sizes)
    lines = list(store.damaged.values())
    shards = len(store.shards) + len(store.damaged)
    kept = [
        int(s.index.counts[part].sum()) * s.dtype.itemsize
        for s, part in zip(store.shards, parts, strict=True)
    ]
    made: set[Path] = set()
    new = -(-sum(size for k, size in enumerate(kept) if k in moved) // shard_bytes)
    if not dry_run:
        for keys, arrays in _groups(_moving(store, moved, parts, lines), shard_bytes):
            made.add(write_shard(store.folder, store.kind, keys, arrays)[0])
        for k in moved:
            path = store.shards[k].path
            if path not in made:
                path.unlink(missing_ok=True)
        store.remove_damaged()
        store.remove_temporaries(older_than=0)
    return Cleaned(
        kind=store.kind,
        kept=int(live.sum()),
        dropped=int((~live).sum()),
        shards_before=shards,
        shards_after=len(store.shards) - len(moved) + (new if dry_run else len(made)),
        bytes_freed=before - sum(kept),
        damaged=tuple(lines),
    )


def _moving(
    store: Store, moved: list[int], parts: list[NDArray[np.bool_]], lines: list[str]
) -> Iterator[tuple[bytes, Array]]:
    for k in moved:
        shard = store.shards[k]
        values = shard.map()
        for number in np.flatnonzero(parts[k]).tolist():
            try:
                yield shard.index.keys[number].tobytes(), read_entry(shard, values, number)
            except DamagedShard as error:
                lines.append(str(error))


def _groups(
    entries: Iterator[tuple[bytes, Array]], shard_bytes: int
) -> Iterator[tuple[list[bytes], list[Array]]]:
    keys: list[bytes] = []
    arrays: list[Array] = []
    size = 0
    for key, array in entries:
        keys.append(key)
        arrays.append(array)
        size += array.nbytes
        if size >= shard_bytes:
            yield keys, arrays
            keys, arrays, size = [], [], 0
    if keys:
        yield keys, arrays


def verify(cache: LatentCache) -> Iterator[tuple[Path, str]]:
    """Read every byte of every shard; yields each shard and what is wrong with it, or ""."""
    for kind in KINDS:
        store = cache.store(kind)
        yield from store.damaged.items()
        for shard in store.shards:
            try:
                check_whole(shard.path)
                yield shard.path, ""
            except DamagedShard as error:
                yield shard.path, str(error)
        cache.forget(kind)
