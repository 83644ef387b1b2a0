"""Many short strings in little memory: one blob and its offsets, never a million objects.

A million paths and captions are some 200 MB this way. Workers that are forked share the pages:
there are no reference counts in them to write to.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.records import Problem


class PackedStrings:
    """An immutable list of byte strings. blob: (bytes,); offsets: (n + 1,) int64."""

    def __init__(self, blob: bytes, offsets: NDArray[np.int64]) -> None:
        self._blob, self._offsets = blob, offsets

    @classmethod
    def of(cls, strings: Sequence[bytes]) -> PackedStrings:
        offsets = np.zeros(len(strings) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)), out=offsets[1:])
        return cls(b"".join(strings), offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._blob[self._offsets[index] : self._offsets[index + 1]]

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))


class Captions:
    """The captions of every row. texts: all of them; first: (rows + 1,) int64 into `texts`."""

    def __init__(self, texts: PackedStrings, first: NDArray[np.int64]) -> None:
        self._texts, self._first = texts, first

    def __len__(self) -> int:
        return len(self._first) - 1

    @property
    def count(self) -> int:
        """How many captions there are in all."""
        return len(self._texts)

    def of(self, row: int) -> tuple[str, ...]:
        """The captions of one row, each once; ("",) when it has none."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        texts = (
            self._texts[i].decode("utf-8") for i in range(self._first[row], self._first[row + 1])
        )
        return tuple(dict.fromkeys(texts)) or ("",)


class CaptionsBuilder:
    """Collects captions in any order of rows; those of one row keep their order."""

    def __init__(self) -> None:
        self._blob = bytearray()
        self._ends = array("q")
        self._rows = array("q")

    def add(self, row: int, captions: Sequence[str]) -> None:
        for caption in captions:
            self._blob += caption.encode("utf-8")
            self._ends.append(len(self._blob))
            self._rows.append(row)

    def build(self, rows: int) -> Captions:
        """The captions of rows 0 … rows - 1."""
        offsets = np.concatenate([[0], np.frombuffer(self._ends, np.int64)]).astype(np.int64)
        of_row = np.frombuffer(self._rows, np.int64).copy()
        texts = PackedStrings(bytes(self._blob), offsets)
        if np.any(np.diff(of_row) < 0):
            order = np.argsort(of_row, kind="stable")
            texts = PackedStrings.of([texts[int(i)] for i in order])
            of_row = of_row[order]
        return Captions(texts, np.searchsorted(of_row, np.arange(rows + 1)).astype(np.int64))


class Problems(Sequence[Problem]):
    """The problems that listing found. Equal reasons are kept once."""

    def __init__(self) -> None:
        self._where: list[str] = []
        self._what: list[tuple[str, str, bool]] = []
        self._known: dict[tuple[str, str, bool], tuple[str, str, bool]] = {}

    def add(self, where: str, code: str, reason: str, *, fatal: bool = True) -> None:
        what = (code, reason, fatal)
        self._where.append(where)
        self._what.append(self._known.setdefault(what, what))

    def extend(self, others: Problems) -> None:
        """Add all of another list's."""
        for where, what in zip(others._where, others._what, strict=True):
            self.add(where, what[0], what[1], fatal=what[2])

    def __len__(self) -> int:
        return len(self._where)

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        code, reason, fatal = self._what[index]
        return Problem(self._where[index], code, reason, fatal)

    def summary(self) -> str:
        """For a source's one line: "; left out: 2 missing, 1 caption-empty; noted: …", or ""."""
        words = ""
        for fatal, verb in ((True, "left out"), (False, "noted")):
            counts = Counter(code for code, _, f in self._what if f is fatal)
            if counts:
                listed = ", ".join(f"{n:,} {code}" for code, n in counts.most_common())
                words += f"; {verb}: {listed}"
        return words


def printable(name: bytes | str) -> str:
    """A file name as one line of valid text: what cannot be shown is escaped as \\xNN."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    shown = []
    for character in text:
        if "\udc80" <= character <= "\udcff":
            shown.append(f"\\x{ord(character) - 0xDC00:02x}")
        elif character == "\\":
            shown.append("\\\\")
        elif character.isprintable():
            shown.append(character)
        else:
            shown.append(character.encode("unicode_escape").decode("ascii"))
    return "".join(shown)


def counted(count: int, noun: str) -> str:
    """ "1 picture", "8,000 pictures"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
