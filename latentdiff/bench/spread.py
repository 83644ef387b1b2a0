"""Medians of a few repeats, and how sure they are."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of some repeats with an interval around it; low = high = value for one repeat."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def shown(self, scale: float = 1.0, digits: int = 3) -> str:
        """`1.23 (1.20–1.31)`, all multiplied by `scale`."""
        value, low, high = (f"{scale * v:.{digits}g}" for v in (self.value, self.low, self.high))
        return value if low == high else f"{value} ({low}–{high})"


def spread(values: Sequence[float], level: float = 0.95) -> Spread:
    """The median, between the order statistics that enclose the true one with probability `level`.

    Distribution-free: of n independent repeats, the k-th smallest and the k-th largest enclose the
    true median with probability 1 - 2 P(Bin(n, 1/2) < k) (David & Nagaraja, Order Statistics, 2003,
    section 7.1). Fewer than six repeats cannot reach 95 %; their whole range is given.
    """
    ordered = sorted(values)
    count, k = len(ordered), 1
    while k < (count + 1) // 2 and _outside(count, k + 1) <= 1.0 - level:
        k += 1
    return Spread(value=statistics.median(ordered), low=ordered[k - 1], high=ordered[count - k])


def _outside(count: int, k: int) -> float:
    """The probability that the true median lies outside the k-th smallest and k-th largest."""
    return 2.0 * sum(comb(count, j) for j in range(k)) / 2.0**count
