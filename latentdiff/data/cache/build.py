"""Filling a latent cache: what is missing is dealt to all processes and published shard by shard.

Who makes an entry is settled by its key alone (key modulo processes), so processes need not agree
on what was there when they began, and a build that was killed goes on with any other number of
them. A process publishes what it has at least once a minute: that much is lost at worst. At the
end it waits for the others by looking at the folder, so no collective operation can time out.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff import files
from latentdiff.data.cache.keys import Keys, first_of_each, words
from latentdiff.data.cache.latent_cache import Store
from latentdiff.data.cache.shards import Array, write_shard
from latentdiff.data.records import BadPicture
from latentdiff.errors import UserError

SHARD_BYTES = 2**28
SHARD_SECONDS = 60.0
PATIENCE_MINUTES = 30.0
"""Waiting for another process ends when nothing at all has come for this long."""
OLD_BUILD_SECONDS = 7 * 86400

Bad = dict[bytes, BadPicture]
"""Key -> why there is no entry for it."""
Progress = Callable[[int, int], None]
"""Called with (done, total) of this process's share."""


@dataclass
class Team:
    """The processes that fill a cache together.

    token: the same in all of them, and never used before: `files.process_token` of
    the first. All call the same builds in the same order.
    """

    rank: int = 0
    world_size: int = 1
    token: str = field(default_factory=files.process_token)
    patience_minutes: float = PATIENCE_MINUTES
    _turn: int = 0

    def mine(self, keys: Keys) -> NDArray[np.bool_]:
        """Which keys (n, 16) are this process's to make."""
        return words(keys)[:, 1] % np.uint64(self.world_size) == self.rank

    def meet(self, cache: Path, kind: str, bad: Bad, failure: str = "") -> Bad:
        """Tell the others what this process could not make, wait for all; returns all of it.

        Raises UserError when another process failed or fell silent.
        """
        if self.world_size == 1:
            return bad
        folder = cache / "builds" / self.token
        self._turn += 1
        label = f"{self._turn:04d}-{kind}"
        files.write_json(
            folder / f"{label}-{self.rank}.json",
            {
                "bad": {key.hex(): [error.code, str(error)] for key, error in bad.items()},
                "failure": failure,
            },
        )
        if failure:
            return bad
        everything: Bad = {}
        for rank in range(self.world_size):
            found = self._await(folder / f"{label}-{rank}.json", cache / kind, rank)
            if found["failure"]:
                raise UserError(f"process {rank} of the cache's build failed: {found['failure']}")
            for key, (code, reason) in found["bad"].items():
                everything[bytes.fromhex(key)] = BadPicture(code, reason)
        if self.rank == 0:
            sweep_builds(cache)
        return everything

    def _await(self, marker: Path, shards: Path, rank: int) -> Any:
        seen, since, pause = -1, time.monotonic(), 0.01
        while not marker.exists():
            count = sum(1 for _ in shards.iterdir()) if shards.is_dir() else 0
            if count != seen:
                seen, since = count, time.monotonic()
            elif time.monotonic() - since > 60 * self.patience_minutes:
                raise UserError(
                    f"process {rank} of the cache's build has written nothing into {shards} for "
                    f"{self.patience_minutes:.0f} minutes; look at its output, and start again: "
                    "what is there is kept"
                )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        return json.loads(marker.read_text("utf-8"))


def sweep_builds(cache: Path) -> None:
    """Remove what builds of several processes told one another, once their first process is dead
    or, on another machine, after a week."""
    for folder in (cache / "builds").glob("*/"):
        with contextlib.suppress(OSError):
            old = time.time() - folder.stat().st_mtime > OLD_BUILD_SECONDS
            if old or files.abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def build(
    store: Store,
    keys: Keys,
    load: Callable[[int], Any],
    encode: Callable[[list[Any]], Iterable[Array]],
    *,
    team: Team | None = None,
    batch_size: int = 16,
    group: NDArray[np.integer] | None = None,
    name: Callable[[int], str] = str,
    workers: int = 4,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
    shard_seconds: float = SHARD_SECONDS,
) -> Bad:
    """Make the entries of `keys` (n, 16) that the store lacks, together with the other processes.

    load(i): what entry i is made from; called in `workers` threads, ahead of need. A BadPicture
    that it raises is reported, and that entry left out. encode(loaded): an array for each.
    group (n,): batches hold entries of one group only. name(i): what to call entry i in messages.
    On return the store finds every key but those of the result, in all processes.
    Raises UserError for values that are not finite, a disk that is full or will be, and when
    another process failed.
    """
    team = team or Team()
    if team.rank == 0:
        store.remove_temporaries()
        sweep_builds(store.folder.parent)
    missing = np.flatnonzero(store.find(keys) < 0)
    missing = missing[first_of_each(keys[missing])]
    mine, groups = _by_group(missing[team.mine(keys[missing])], group)
    writer = _Writer(store, shard_bytes, shard_seconds)
    bad: Bad = {}
    done = 0
    try:
        for numbers, payloads in _batches(mine, groups, load, batch_size, workers):
            unusable, arrays = _encoded(numbers, payloads, encode)
            bad.update({keys[i].tobytes(): problem for i, problem in unusable.items()})
            for i, array in arrays.items():
                if not np.isfinite(array).all():
                    raise UserError(f"the {store.kind} of {name(i)} are not finite; not cached")
                writer.add(keys[i].tobytes(), array)
            done += len(numbers)
            writer.check_room(len(missing) - done * team.world_size)
            if progress is not None:
                progress(done, len(mine))
        writer.publish()
    except BaseException as error:
        # The others need not wait for what will not come.
        team.meet(store.folder.parent, store.kind, {}, failure=str(error) or repr(error))
        if not isinstance(error, UserError) or not writer.refused:
            writer.publish()  # What was made is good; a Ctrl-C loses none of it.
        raise
    bad = team.meet(store.folder.parent, store.kind, bad)
    store.refresh()
    _refuse_lost(store, keys, missing, bad, name)
    return bad


def _refuse_lost(
    store: Store, keys: Keys, missing: NDArray[np.int64], bad: Bad, name: Callable[[int], str]
) -> None:
    """UserError when an entry that some process should have made is not in the store."""
    lost = [i for i in missing[store.find(keys[missing]) < 0] if keys[i].tobytes() not in bad]
    if lost:
        raise UserError(
            f"the {store.kind} of {name(int(lost[0]))} and {len(lost) - 1} more are not in "
            f"{store.folder} after all processes are done; is it the same folder for all of them?"
        )


def _by_group(
    mine: NDArray[np.int64], group: NDArray[np.integer] | None
) -> tuple[NDArray[np.int64], NDArray[np.integer]]:
    """The entries, group by group, and their groups. Sources are read in order within a group:
    files, row groups and shards are opened once."""
    groups = np.zeros(len(mine), np.int64) if group is None else np.asarray(group)[mine]
    return mine[np.argsort(groups, kind="stable")], np.sort(groups)


def _encoded(
    numbers: list[int], payloads: list[Any], encode: Callable[[list[Any]], Iterable[Array]]
) -> tuple[dict[int, BadPicture], dict[int, Array]]:
    """Of one batch: what could not be loaded, and the arrays of the others."""
    loaded = dict(zip(numbers, payloads, strict=True))
    bad = {i: payload for i, payload in loaded.items() if isinstance(payload, BadPicture)}
    good = {i: payload for i, payload in loaded.items() if i not in bad}
    arrays = encode(list(good.values())) if good else []
    return bad, dict(zip(good, arrays, strict=True))


def _batches(
    mine: NDArray[np.int64],
    groups: NDArray[np.integer],
    load: Callable[[int], Any],
    batch_size: int,
    workers: int,
) -> Iterator[tuple[list[int], list[Any]]]:
    """(numbers, loaded or BadPicture) of each batch in order, loaded by threads meanwhile."""
    cuts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(mine)]
    spans = [
        mine[first : min(first + batch_size, end)].tolist()
        for begin, end in pairwise(cuts)
        for first in range(begin, end, batch_size)
    ]
    ahead: deque[Future[Any]] = deque()
    todo = iter(mine.tolist())
    with ThreadPoolExecutor(max(1, workers), "cache-load") as threads:
        try:
            for span in spans:
                depth = len(span) + 2 * workers + batch_size - len(ahead)
                ahead.extend(threads.submit(load, i) for i in islice(todo, depth))
                yield span, [_result(ahead.popleft()) for _ in span]
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _result(job: Future[Any]) -> Any:
    try:
        return job.result()
    except BadPicture as error:
        return error


class _Writer:
    """Collects entries and publishes them as shards, by size and by time."""

    def __init__(self, store: Store, shard_bytes: int, shard_seconds: float) -> None:
        self.store = store
        self.refused = False
        """Whether the disk took the last shard."""
        self._limits = shard_bytes, shard_seconds
        self._keys: list[bytes] = []
        self._arrays: list[Array] = []
        self._bytes = self._total = self._count = 0
        self._since = time.monotonic()

    def add(self, key: bytes, array: Array) -> None:
        if not self._keys:
            self._since = time.monotonic()
        self._keys.append(key)
        self._arrays.append(array)
        self._bytes += array.nbytes
        self._total += array.nbytes
        self._count += 1
        full, late = self._limits
        if self._bytes >= full or time.monotonic() - self._since >= late:
            self.publish()

    def publish(self) -> None:
        if not self._keys:
            return
        self.refused = True
        write_shard(self.store.folder, self.store.kind, self._keys, self._arrays)
        self.refused = False
        self._keys, self._arrays, self._bytes = [], [], 0

    def check_room(self, entries: int) -> None:
        """UserError when what is still to be written will not fit on the disk."""
        if not self._count or entries <= 0:
            return
        need = self._bytes + entries * self._total // self._count
        place = next(p for p in (self.store.folder, *self.store.folder.parents) if p.is_dir())
        free = shutil.disk_usage(place).free
        if need > free:
            self.refused = True
            raise UserError(
                f"the disk is too small for the cache in {self.store.folder}: the "
                f"{self.store.kind} of {entries:,} more entries take about {need:,} bytes, "
                f"{free:,} are free: {need - free:,} bytes are missing"
            )
