"""The parts of a measurement on disk, each under a name made of all that it depends on.

A part is found again only by the same weights, settings and pictures, so a measurement that was
killed goes on where it stopped, processes share a folder, and a changed option reuses what it
leaves unchanged.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff import files
from latentdiff.errors import UserError

Arrays = dict[str, NDArray[Any]]
PARTS = "parts"
_KEY = "key"
_FORM = 1
"""Grows when what a part holds changes its meaning."""


class ResultStore:
    """Parts under `folder`/parts, one .npz each, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError when the folder is a file."""
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; name a folder for the results")
        self.folder = folder
        for left in (folder / PARTS).glob("*"):
            if files.abandoned(left):  # others may be another process's, at work
                left.unlink(missing_ok=True)

    def path(self, key: Mapping[str, Any]) -> Path:
        """Where the part of a key lies, or would."""
        return self.folder / PARTS / f"{hashlib.sha256(_text(key).encode()).hexdigest()[:20]}.npz"

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether the part is there."""
        return self.path(key).is_file()

    def get(self, key: Mapping[str, Any]) -> Arrays | None:
        """The part of a key; None where there is none, or a damaged one."""
        try:
            with np.load(self.path(key), allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None
        return arrays if str(arrays.pop(_KEY, "")) == _text(key) else None

    def put(self, key: Mapping[str, Any], arrays: Arrays) -> None:
        """Write a part in one piece."""
        held, whole = io.BytesIO(), {_KEY: np.array(_text(key)), **arrays}
        np.savez_compressed(held, allow_pickle=False, **whole)
        files.write_bytes(self.path(key), held.getvalue())


@dataclass(frozen=True)
class Share:
    """Which of numbered pieces of work are this process's: every `count`-th, from `index`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"shard {self.index + 1}/{self.count}: expected 1/N … N/N")

    @classmethod
    def parse(cls, text: str) -> Share:
        """ "2/4": the second of four. UserError for anything else."""
        first, slash, last = text.partition("/")
        if not slash or not first.isdecimal() or not last.isdecimal():
            raise UserError(f"shard is {text!r}; expected K/N, such as 1/2")
        return cls(int(first) - 1, int(last))

    def mine(self, number: int) -> bool:
        """Whether piece `number` is this process's."""
        return number % self.count == self.index


Progress = Callable[[int, int], None]
"""(done, total), in calls of a network or updates of one."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Where parts are kept, which of them this process makes, and who is told how far it is."""

    store: ResultStore
    share: Share = field(default_factory=Share)
    progress: Progress | None = None

    @property
    def whole(self) -> bool:
        """Whether this process makes all parts, and so can report on them."""
        return self.share.count == 1

    def tell(self, done: int, total: int) -> None:
        """Say how far it is."""
        if self.progress is not None:
            self.progress(done, total)


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps({"form": _FORM, **key}, sort_keys=True, ensure_ascii=False)
