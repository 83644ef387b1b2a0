"""SHA-256 sums of weight files, made when they are asked for and kept beside the user's cache.

A recipe names the weights by their sums; nothing waits for them before it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from latentdiff.errors import UserError
from latentdiff.files import write_json

WORTH_KEEPING = 2**26
"""Bytes; a smaller file is read again sooner than its sum is looked up and believed."""
KEPT = 500


class FileHash:
    """The sum of one file as it was when this was made, whatever takes its name since."""

    def __init__(self, path: Path) -> None:
        """Opens the file; UserError when it cannot be read."""
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror or error})") from error
        self._descriptor = descriptor
        self._state = _state(descriptor)
        self._close = weakref.finalize(self, os.close, descriptor)

    @functools.cached_property
    def value(self) -> str:
        """64 hexadecimal digits; "" for a file that was written into since it was opened."""
        try:
            kept = _read_kept().get(str(self.path.absolute()))
            if kept is not None and kept[1:] == self._state:
                return str(kept[0])
            with open(self._descriptor, "rb", closefd=False) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if _state(self._descriptor) != self._state:
                return ""
        finally:
            self._close()
        if self._state[0] >= WORTH_KEEPING:
            _keep(str(self.path.absolute()), [found, *self._state])
        return found


def sum_of(files: Sequence[FileHash]) -> str:
    """Of a single file as `sha256sum` prints it; of shards, of the list of their sums in order."""
    digests = [file.value for file in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()


class Hashes(Mapping[str, str]):
    """Part → sum, each made when it is first asked for."""

    def __init__(self, sums: Mapping[str, Callable[[], str]]) -> None:
        self._sums, self._found = dict(sums), dict[str, str]()
        self._lock = threading.Lock()

    def __getitem__(self, part: str) -> str:
        make = self._sums[part]
        with self._lock:
            if part not in self._found:
                self._found[part] = make()
            return self._found[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def __deepcopy__(self, memo: dict[int, object]) -> Hashes:
        """Itself: what is in files does not change with a copy of the networks."""
        return self

    @property
    def made(self) -> bool:
        """Whether all are known."""
        return len(self._found) == len(self._sums)


def begin(hashes: Mapping[str, str]) -> None:
    """Make them all beside whatever is done next."""
    if isinstance(hashes, Hashes) and not hashes.made:
        threading.Thread(target=lambda: dict(hashes), daemon=True, name="hashes").start()


def _state(descriptor: int) -> list[int]:
    """What changes when a file does: its size, and when it was last written."""
    found = os.fstat(descriptor)
    return [found.st_size, found.st_mtime_ns]


def user_cache() -> Path:
    """The folder for what is made again when it is lost: ~/.cache/latentdiff."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "latentdiff"


def _place() -> Path:
    return user_cache() / "weight_hashes.json"


def _read_kept() -> dict[str, list[object]]:
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        kept = json.loads(_place().read_text("utf-8"))
        if isinstance(kept, dict):
            return {n: v for n, v in kept.items() if isinstance(v, list) and len(v) == 3}
    return {}


def _keep(name: str, row: list[object]) -> None:
    """Remember a sum; a cache that cannot be written is done without."""
    with contextlib.suppress(OSError, RuntimeError, UserError):
        kept = _read_kept()
        kept.pop(name, None)
        _place().parent.mkdir(parents=True, exist_ok=True)
        write_json(_place(), dict([*kept.items(), (name, row)][-KEPT:]))
