"""What every source of captioned pictures gives, whatever it reads from.

A source has a fixed order, cheap captions and slow pictures: opening one lists it, `read` fetches
the encoded bytes of one picture, and `data.decode` turns those into pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from latentdiff.errors import UserError


class BadPicture(UserError):  # noqa: N818  (it names a thing, and every UserError is an error)
    """A picture that cannot be used; `code` is a short stable word, the message a whole reason.

    It is caught for each sample: training skips and counts it, `data check` lists it.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code

    def __reduce__(self) -> tuple[type[BadPicture], tuple[str, str]]:
        """Survives the way back from a worker process."""
        return type(self), (self.code, str(self))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set.

    where: the sample's id, or the file that holds several. code: a short stable word such as
    "truncated" or "caption-empty". fatal: the sample cannot be used (otherwise it is only noted).
    """

    where: str
    code: str
    reason: str
    fatal: bool = True


@runtime_checkable
class Source(Protocol):
    """Captioned pictures by row, 0 … len - 1, in an order that depends on the content alone."""

    @property
    def name(self) -> str:
        """What the user gave: a path, a glob, a hub id."""
        ...

    @property
    def summary(self) -> str:
        """The one line that says what was found."""
        ...

    @property
    def problems(self) -> Sequence[Problem]:
        """What listing found: rows that were left out, what is noted."""
        ...

    def __len__(self) -> int: ...

    def id(self, row: int) -> str:
        """A stable, printable name: a path below the root, "file.parquet#12", "shard.tar#key"."""
        ...

    def captions(self, row: int) -> tuple[str, ...]:
        """One or more captions, cleaned; none is empty unless all are."""
        ...

    def read(self, row: int) -> bytes:
        """The encoded picture. Raises BadPicture when it cannot be had."""
        ...

    def stamp(self, row: int) -> str:
        """A cheap token that changes when the bytes may have changed: path, size, mtime."""
        ...


@runtime_checkable
class Weighted(Protocol):
    """A source that may ask for some of its rows to be seen more often than others."""

    repeats: tuple[int, ...]
    """How often each row is seen in an epoch; empty when all are seen once."""
