"""Intervals for numbers that are no mean: the grouped jackknife and the bootstrap."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.paired import student_t
from latentdiff.seeding import generator

Indices = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its standard error and a two-sided interval at `level`.

    method: "jackknife" or "bootstrap".
    """

    value: float
    standard_error: float
    low: float
    high: float
    level: float
    method: str

    def to_json(self) -> dict[str, float | str]:
        """Plain values for a report."""
        return dataclasses.asdict(self)


def jackknife(
    value: float, left_out: Sequence[float] | NDArray[np.float64], level: float = 0.95
) -> Interval:
    """The interval of a statistic from its values with one of G equal groups left out each.

    SE² = (G − 1)/G · Σ_g (v_g − v̄)² (Tukey 1958), interval by Student's t with G − 1 degrees. For
    statistics that are smooth in the data, such as distances between moments; it adds no bias of
    its own, where a bootstrap's repeated samples would. Raises ValueError below two groups.
    """
    values = np.asarray(left_out, np.float64)
    count = len(values)
    if count < 2:
        raise ValueError(f"a jackknife needs at least 2 groups, found {count}")
    error = math.sqrt((count - 1) / count * float(np.square(values - values.mean()).sum()))
    half = error * student_t(0.5 + level / 2, count - 1)
    return Interval(
        value=value,
        standard_error=error,
        low=value - half,
        high=value + half,
        level=level,
        method="jackknife",
    )


def bootstrap(
    statistic: Callable[[Indices], float],
    count: int,
    *,
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The percentile interval of statistic(indices) over samples drawn with repetition.

    statistic: takes indices (count,) into the data, which is asked for itself first (Efron 1979).
    Draws are addressed by (seed, repeat). Raises ValueError for no data or fewer than 2 repeats.
    """
    if count < 1 or repeats < 2:
        raise ValueError(f"a bootstrap of {count} values with {repeats} repeats says nothing")
    whole = np.arange(count, dtype=np.int64)
    found = np.asarray(
        [
            statistic(generator(seed, "bootstrap", k).integers(0, count, count))
            for k in range(repeats)
        ]
    )
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        value=statistic(whole),
        standard_error=float(found.std(ddof=1)),
        low=float(low),
        high=float(high),
        level=level,
        method="bootstrap",
    )


def groups_of(count: int, groups: int, seed: int = 0) -> list[Indices]:
    """0 … count − 1 in random order, dealt into `groups` parts whose sizes differ by at most 1."""
    if not 2 <= groups <= count:
        raise ValueError(f"{count} samples cannot be dealt into {groups} groups (at least 2)")
    order = generator(seed, "jackknife groups").permutation(count)
    return [np.sort(part) for part in np.array_split(order, groups)]


def check_features(*sets: NDArray[np.floating], least: int = 2) -> None:
    """ValueError unless all are finite (N, D) arrays of one width with at least `least` rows."""
    shapes = [features.shape for features in sets]
    if any(features.ndim != 2 or len(features) < least for features in sets):
        raise ValueError(f"features (N, D) with at least {least} rows expected, found {shapes}")
    if len({shape[1] for shape in shapes}) != 1:
        raise ValueError(f"features of different widths: {shapes}")
    if not all(bool(np.isfinite(features).all()) for features in sets):
        raise ValueError("features hold NaN or infinity")
