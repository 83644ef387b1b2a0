"""A latent cache: posterior moments and contexts by content, in memory-mapped shards.

    cache.json           says that this folder is a cache
    moments/*.safetensors    float32 (2C, h, w): mean, then log variance, of the raw latent
    contexts/*.safetensors   float32 (L, D): the text encoder's last hidden states
    contents/*.safetensors   uint8 (40,): SHA-256, width and height of a picture, by its stamp
    uses/*.safetensors       the keys that a training or build asked for; what `gc` keeps
    builds/              how far each process of a build in progress is

An entry's key hashes all that its value depends on (`cache_keys`), so there is nothing to go stale:
what no longer fits is not found. One cache serves any number of data sets and models at once.
Opening it reads the shards' indices, some 60 bytes an entry; values are mapped when they are read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff import files
from latentdiff.data.cache.keys import Keys, sort_order, words
from latentdiff.data.cache.shards import (
    FORMAT,
    SUFFIX,
    VERSION,
    Array,
    DamagedShard,
    Shard,
    check_whole,
    open_shard,
    read_entry,
)
from latentdiff.errors import UserError

MARK, LOCK = "cache.json", ".lock"
MOMENTS, CONTEXTS, CONTENTS = KINDS = ("moments", "contexts", "contents")
OPEN_MAPS = 256
"""Shards kept mapped at a time; each costs a file descriptor."""
LEFT_SECONDS = 3600
"""A temporary file of this age belongs to nobody: writing a shard takes seconds."""


class Store:
    """All entries of one kind; cheap to ask for keys, one read and one checksum an entry.

    Travels to other processes with its index; they map the shards anew.
    """

    def __init__(self, folder: Path, kind: str, *, check_all: bool = False) -> None:
        """Open the shards in `folder` (none if it is not there).

        check_all: hash every byte of each, not only header and index; for kinds that are small.
        """
        self.folder, self.kind, self._check_all = folder, kind, check_all
        self.shards: list[Shard] = []
        self.damaged: dict[Path, str] = {}
        """Shards that are not used, and what is wrong with each."""
        self._maps: OrderedDict[int, NDArray] = OrderedDict()
        self._merge()
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": OrderedDict()}

    def __len__(self) -> int:
        """Entries, duplicates included."""
        return int(self._firsts[-1])

    @property
    def bytes(self) -> int:
        """Bytes of values."""
        return sum(shard.bytes for shard in self.shards)

    def refresh(self) -> None:
        """Open the shards that came since; those already open keep their entry numbers."""
        known = {shard.path.name for shard in self.shards}
        try:
            names = sorted(n for n in os.listdir(self.folder) if n.endswith(SUFFIX))
        except FileNotFoundError:
            names = []
        self.damaged.clear()
        found = []
        for name in names:
            if name in known or name.startswith("."):
                continue
            try:
                shard = open_shard(self.folder / name, self.kind)
                if self._check_all:
                    check_whole(shard.path)
                found.append(shard)
            except DamagedShard as error:
                self.damaged[self.folder / name] = str(error)
            except FileNotFoundError:
                continue
        if found:
            self.shards += found
            self._merge()

    def _merge(self) -> None:
        """Entry numbers run through the shards in order; keys are sorted once, for bisection."""
        lengths = [len(shard.index) for shard in self.shards]
        self._firsts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        pairs = [words(shard.index.keys) for shard in self.shards]
        merged = np.concatenate(pairs) if pairs else np.empty((0, 2), np.uint64)
        self._order = sort_order(merged)
        self._high = merged[self._order, 0]
        self._low = merged[self._order, 1]

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """Entry numbers (n,) of keys (n, 16); -1 where there is none."""
        wanted = words(keys)
        found = np.full(len(wanted), -1, np.int64)
        # In their order, keys are looked up in neighbouring memory: twenty times faster.
        rows = np.argsort(wanted[:, 0])
        place = np.searchsorted(self._high, wanted[rows, 0])
        # More than one turn only where two keys agree in their first 64 bits.
        while len(rows):
            inside = place < len(self._high)
            rows, place = rows[inside], place[inside]
            same = self._high[place] == wanted[rows, 0]
            hit = same & (self._low[place] == wanted[rows, 1])
            found[rows[hit]] = self._order[place[hit]]
            again = same & ~hit
            rows, place = rows[again], place[again] + 1
        return found

    def locate(self, entry: int) -> tuple[int, int]:
        """Shard and number within it of an entry."""
        assert 0 <= entry < len(self), entry
        shard = int(np.searchsorted(self._firsts, entry, "right")) - 1
        return shard, int(entry - self._firsts[shard])

    def read(self, entry: int) -> Array:
        """One entry's values, checked. Raises DamagedShard when they are not what was written."""
        shard, number = self.locate(entry)
        return read_entry(self.shards[shard], self._mapped(shard), number)

    def rows(self, entries: NDArray[np.int64]) -> Array:
        """Values (n, d) of entries that all have the shape (d,); not checked one by one."""
        if not len(entries):
            return np.empty((0, 0), np.uint8)
        order = np.argsort(entries, kind="stable")
        ordered = entries[order]
        cuts = np.searchsorted(ordered, self._firsts)
        out: Array | None = None
        for k in np.flatnonzero(np.diff(cuts)).tolist():
            index = self.shards[k].index
            width = int(index.shapes[0, 0])
            assert (index.shapes == [width, 0, 0]).all(), self.shards[k].path
            values = self._mapped(k).reshape(-1, width)
            if out is None:
                out = np.empty((len(entries), width), values.dtype)
            here = slice(cuts[k], cuts[k + 1])
            out[order[here]] = values[ordered[here] - self._firsts[k]]
        assert out is not None
        return out

    def _mapped(self, shard: int) -> NDArray:
        values = self._maps.pop(shard, None)
        if values is None:
            path = self.shards[shard].path
            try:
                values = self.shards[shard].map()
            except (OSError, ValueError) as error:
                raise DamagedShard(f"{path} cannot be read any more ({error})") from error
            if len(self._maps) >= OPEN_MAPS:
                self._maps.popitem(last=False)
        self._maps[shard] = values
        return values

    def remove_damaged(self) -> list[str]:
        """Delete the shards that cannot be used; returns what was wrong with each."""
        lines = list(self.damaged.values())
        for path in self.damaged:
            path.unlink(missing_ok=True)
        self.damaged.clear()
        return lines

    def remove_temporaries(self, older_than: float = LEFT_SECONDS) -> None:
        """Delete what an interrupted write left, unless it may still be going on."""
        sweep(self.folder, older_than)


def sweep(folder: Path, older_than: float = LEFT_SECONDS) -> None:
    """Delete the temporaries in a folder whose writer is dead, or that are so many seconds old."""
    for path in folder.glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if files.abandoned(path) or time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


class LatentCache:
    """A cache folder, opened; it cannot be cleaned by others while this object lives."""

    def __init__(self, folder: str | Path, *, create: bool = False, alone: bool = False) -> None:
        """Open the cache in `folder`, or begin one there if `create` is set.

        alone: for deleting; refused while another process has the cache open.
        Raises UserError when there is no cache, the folder holds other things, or it is in use.
        """
        self.folder = Path(folder)
        _mark(self.folder, create)
        self._lock: int | None = _lock(self.folder, alone)
        self._stores: dict[str, Store] = {}
        if create:
            for place in (self.folder, *(self.folder / name for name in (*KINDS, "uses"))):
                sweep(place)

    def __getstate__(self) -> dict[str, Any]:
        # The process that it came from holds the lock.
        return {**self.__dict__, "_lock": None}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let others clean the cache."""
        if getattr(self, "_lock", None) is not None:
            os.close(self._lock)  # type: ignore[arg-type]
            self._lock = None

    def store(self, kind: str) -> Store:
        """The entries of one kind: MOMENTS, CONTEXTS or CONTENTS; opened once."""
        assert kind in KINDS, kind
        if kind not in self._stores:
            small = kind == CONTENTS
            self._stores[kind] = Store(self.folder / kind, kind, check_all=small)
        return self._stores[kind]

    def forget(self, kind: str) -> None:
        """Close a store, and free its index."""
        self._stores.pop(kind, None)

    @property
    def damaged(self) -> list[str]:
        """A line for each shard, of the stores opened so far, that cannot be used."""
        return [line for store in self._stores.values() for line in store.damaged.values()]


def _mark(folder: Path, create: bool) -> None:
    """Check that the folder is a cache, or make it one."""
    if folder.is_file():
        raise UserError(f"{folder} is a file; the folder of a latent cache was expected")
    try:
        found = json.loads((folder / MARK).read_text("utf-8"))
        form, version = found["format"], str(found["version"])
    except FileNotFoundError:
        names = [name for name in os.listdir(folder) if name[0] != "."] if folder.is_dir() else []
        # Another process may have begun the cache between the two looks.
        if (names and MARK not in names) or not create:
            what = "holds other things" if names else "is empty" if folder.is_dir() else "is absent"
            raise UserError(
                f"{folder} is no latent cache: it {what}; `latentdiff data cache build` begins "
                "one in a new folder"
            ) from None
        files.write_json(folder / MARK, {"format": FORMAT, "version": VERSION})
        return
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{folder / MARK} cannot be read ({error}); is this a cache?") from error
    if form != FORMAT or version != VERSION:
        raise UserError(
            f"{folder} is a {form} of version {version}; {FORMAT} of version {VERSION} is read here"
        )


def _lock(folder: Path, alone: bool) -> int | None:
    """A shared or an exclusive lock, the kernel's: it goes with its process however that ends."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if alone:
            raise UserError(f"cannot write in {folder} ({error.strerror})") from error
        return None  # A cache on a read-only disk is nobody's to clean.
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        busy = "in use by another process" if alone else "being cleaned by another process"
        raise UserError(f"{folder} is {busy}; wait for it to end") from None
    except OSError as error:
        # Some network disks know no locks: reading is safe without, deleting is not.
        if alone:
            os.close(descriptor)
            raise UserError(f"cannot lock {folder} ({error.strerror})") from error
    return descriptor
