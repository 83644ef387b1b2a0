"""How sure a measured difference is: means with standard errors, clustered by picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.intervals import Proportion


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its standard error, from `n` values in `clusters` independent groups.

    The standard error is NaN when there are fewer than two clusters.
    """

    mean: float
    standard_error: float
    n: int
    clusters: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The two-sided confidence interval, by Student's t with clusters - 1 degrees."""
        half = self.standard_error * student_t(0.5 + level / 2, self.clusters - 1)
        return self.mean - half, self.mean + half

    def differs(self, level: float = 0.95) -> bool:
        """Whether zero lies outside the two-sided interval; False when that is unknown."""
        low, high = self.interval(level)
        return low > 0 or high < 0


def clustered_mean(values: NDArray[np.float64], clusters: Sequence[str]) -> Estimate:
    """The mean of `values` (n,) with the standard error that holds when clusters are correlated.

    Values of one cluster (one picture at several timesteps) are not independent; clusters are.
    With deviations e_i from the mean and G clusters (Liang and Zeger 1986, for a mean, times the
    small-sample factor):

        SE² = G / (G - 1) · Σ_g (Σ_{i in g} e_i)² / n²

    which is s² / n when every value is its own cluster.
    """
    x = np.asarray(values, np.float64)
    if x.shape != (len(clusters),):
        raise ValueError(f"{x.shape} values for {len(clusters)} clusters")
    if not len(x):
        return Estimate(mean=math.nan, standard_error=math.nan, n=0, clusters=0)
    mean = float(x.mean())
    _, group = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(group, weights=x - mean)
    count = len(sums)
    if count < 2:
        error = math.nan
    else:
        error = math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / len(x)
    return Estimate(mean=mean, standard_error=error, n=len(x), clusters=count)


def student_t(p: float, degrees: int) -> float:
    """The quantile of Student's t, 0 < p < 1; NaN below one degree of freedom.

    Exact for 1 and 2 degrees; above, the expansion of Abramowitz and Stegun 26.7.5, which is
    within 0.2 % for 3 degrees at p = 0.975 and rapidly better.
    """
    if degrees < 1:
        return math.nan
    if degrees == 1:
        return math.tan(math.pi * (p - 0.5))
    if degrees == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    x = NormalDist().inv_cdf(p)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / degrees**k for k, term in enumerate(terms, 1))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that two classifiers of the same items are equally often right.

    Of the items on which exactly one of them is right, `only_first` and `only_second` are
    counted; under the null hypothesis the split is a fair coin's (McNemar 1947, exact binomial).
    """
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1))
    # Integers throughout: 2^n overflows a float at n = 1024.
    return min(1.0, 2 * tail / (1 << n))


def newcombe(first: Proportion, second: Proportion) -> tuple[float, float, float, float]:
    """(first - second, low, high, p) of two independent proportions with their Wilson intervals.

    The interval is Newcombe's hybrid score, method 10 (Statistics in Medicine 17:873, 1998); p is
    the two-sided z test with pooled variance.
    """
    a, b = first.value, second.value
    low = a - b - math.hypot(a - first.low, second.high - b)
    high = a - b + math.hypot(first.high - a, b - second.low)
    total = first.count + second.count
    pooled = (first.successes + second.successes) / total if total else 0.0
    variance = pooled * (1 - pooled)
    if not (first.count and second.count and variance):
        return a - b, low, high, 1.0
    z = (a - b) / math.sqrt(variance * (1 / first.count + 1 / second.count))
    return a - b, low, high, 2 * NormalDist().cdf(-abs(z))
