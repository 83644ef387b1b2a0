"""How sure a measured proportion is."""

from __future__ import annotations

import dataclasses
import math

# The two-sided 95 % quantile of the standard normal.
Z_95 = 1.959963984540054


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proportion:
    """`successes` of `count`, with the ends of its Wilson interval, all in [0, 1]."""

    successes: int
    count: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself; 0 when nothing was counted."""
        return self.successes / self.count if self.count else 0.0

    def to_json(self) -> dict[str, float | int]:
        """Plain values for the report."""
        return {
            "successes": self.successes,
            "count": self.count,
            "value": round(self.value, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
        }


def wilson(successes: int, count: int, z: float = Z_95) -> Proportion:
    """The Wilson score interval of a binomial proportion.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference"; unlike
    p ± z·sqrt(p(1-p)/n) it stays inside [0, 1] and is honest at 0 of n and n of n. Nothing
    counted gives the interval [0, 1].
    """
    if not 0 <= successes <= count:
        raise ValueError(f"{successes} successes of {count} are not a proportion")
    if count == 0:
        return Proportion(successes=0, count=0, low=0.0, high=1.0)
    p = successes / count
    denominator = 1.0 + z * z / count
    centre = (p + z * z / (2 * count)) / denominator
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / denominator
    # At 0 and n the end is exact; rounding would leave 1e-17 on the wrong side.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Proportion(successes=successes, count=count, low=low, high=high)
