"""What the sources that are listed whole have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

from latentdiff.data.records import Problem
from latentdiff.data.sources.packed import Captions, Problems, counted


class Listed:
    """A name, captions by row, what listing found, and one line that sums it up."""

    def __init__(self, name: str, captions: Captions, problems: Problems, kind: str) -> None:
        self._name, self._captions, self._problems, self._kind = name, captions, problems, kind
        self.repeats: tuple[int, ...] = ()
        """How often each row is seen in an epoch; empty when all are seen once."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def summary(self) -> str:
        return (
            f"{self._name}: {counted(len(self), 'picture')}, "
            f"{counted(self._captions.count, 'caption')} "
            f"({self._kind}){self._problems.summary()}"
        )

    @property
    def problems(self) -> Sequence[Problem]:
        return self._problems

    def __len__(self) -> int:
        return len(self._captions)

    def captions(self, row: int) -> tuple[str, ...]:
        return self._captions.of(row)


def lowest_terms(repeats: Sequence[int]) -> tuple[int, ...]:
    """The smallest whole numbers in the same proportion; empty when all are equal."""
    divisor = math.gcd(*repeats)
    reduced = tuple(count // divisor for count in repeats)
    return reduced if len(set(reduced)) > 1 else ()
