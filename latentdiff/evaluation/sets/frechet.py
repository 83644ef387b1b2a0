"""Fréchet distance between Gaussians fitted to two sets of features, and its limit.

d² = ‖μ_1 − μ_2‖² + tr(Σ_1 + Σ_2 − 2(Σ_1Σ_2)^½) (Dowson & Landau 1982; FID: Heusel et al. 2017).
From N samples it is too large by about c/N, where c depends on the model: sets of different sizes
do not compare. `extrapolated` removes that by a line in 1/N (Chong & Forsyth 2020).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.sets.resampling import (
    Interval,
    check_features,
    groups_of,
    jackknife,
)
from latentdiff.seeding import permutation

Features = NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over `count` samples of D features: their sum (D,) and Σ f fᵀ (D, D), float64.

    Moments of parts add (`+`) and subtract (`-`), so that a stream, several processes and a
    jackknife need the features only once.
    """

    count: int
    total: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, features: Features) -> Moments:
        """Of (N, D) features."""
        check_features(features, least=1)
        x = features.astype(np.float64)
        return cls(len(x), x.sum(axis=0), x.T @ x)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count, self.total + other.total, self.products + other.products
        )

    def __sub__(self, other: Moments) -> Moments:
        return Moments(
            self.count - other.count, self.total - other.total, self.products - other.products
        )

    @property
    def mean(self) -> NDArray[np.float64]:
        """μ (D,)."""
        return self.total / self.count

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Σ (D, D), divided by N − 1."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, found {self.count}")
        mean = self.mean
        return (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)


def frechet_distance(
    mean_1: NDArray[np.float64],
    cov_1: NDArray[np.float64],
    mean_2: NDArray[np.float64],
    cov_2: NDArray[np.float64],
) -> float:
    """d² of N(mean_1, cov_1) and N(mean_2, cov_2); means (D,), covariances (D, D).

    tr (Σ_1Σ_2)^½ is the sum of the roots of the eigenvalues of Σ_1^½ Σ_2 Σ_1^½, which is symmetric:
    no complex numbers, also for singular covariances (fewer samples than features).
    """
    values, vectors = np.linalg.eigh(cov_1)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ cov_2 @ root)
    cross = float(np.sqrt(np.clip(inner, 0.0, None)).sum())
    apart = float(np.square(mean_1 - mean_2).sum())
    return apart + float(np.trace(cov_1) + np.trace(cov_2)) - 2.0 * cross


def distance_of(first: Moments, second: Moments) -> float:
    """`frechet_distance` of fitted Gaussians."""
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


def frechet(
    features: Features, reference: Moments | Features, *, groups: int = 20, seed: int = 0
) -> Interval:
    """d² of features (N, D) from a reference, with a grouped jackknife's interval over `features`.

    The reference counts as fixed, as it does when models are compared against one data set.
    """
    fixed = reference if isinstance(reference, Moments) else Moments.of(reference)
    whole = Moments.of(features)
    parts = [Moments.of(features[part]) for part in groups_of(len(features), groups, seed)]
    return jackknife(
        distance_of(whole, fixed), [distance_of(whole - part, fixed) for part in parts]
    )


def paired_difference(
    first: Features,
    second: Features,
    reference: Moments | Features,
    *,
    groups: int = 20,
    seed: int = 0,
) -> Interval:
    """d² of first minus d² of second, (N, D) each, row k of both from the same prompt and seed.

    The jackknife leaves a group of rows out of both at once, so what prompts and seeds have in
    common drops out of the interval, and so does most of the bias in N. Raises ValueError for sets
    of different sizes.
    """
    if first.shape != second.shape:
        raise ValueError(f"pairs of features expected, found {first.shape} and {second.shape}")
    fixed = reference if isinstance(reference, Moments) else Moments.of(reference)
    whole = [Moments.of(features) for features in (first, second)]

    def apart(left_out: NDArray[np.int64] | None) -> float:
        one, other = (
            all_of if left_out is None else all_of - Moments.of(features[left_out])
            for all_of, features in zip(whole, (first, second), strict=True)
        )
        return distance_of(one, fixed) - distance_of(other, fixed)

    return jackknife(apart(None), [apart(part) for part in groups_of(len(first), groups, seed)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """d² in the limit of infinitely many samples, and the line it was read from.

    limit: the intercept, with its interval; slope: c in d²(N) ≈ limit + c/N; sizes and distances:
    the points of the line.
    """

    limit: Interval
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def extrapolated(
    features: Features,
    reference: Moments | Features,
    *,
    sizes: Sequence[int] | None = None,
    groups: int = 20,
    seed: int = 0,
) -> Extrapolation:
    """FD_∞: d² at several N, fitted by a line in 1/N down to 1/N = 0.

    sizes: by default eight, from a quarter of the features to all, evenly spaced in 1/N; a size N
    takes as many disjoint random parts as fit, and their mean. The interval is the grouped
    jackknife of the whole procedure over `features`; the reference counts as fixed.
    """
    fixed = reference if isinstance(reference, Moments) else Moments.of(reference)
    chosen = tuple(sizes) if sizes is not None else _sizes(len(features))
    if len(chosen) < 2 or min(chosen) < 2 or max(chosen) > len(features):
        raise ValueError(f"sizes must be at least two of 2 … {len(features)}, found {chosen}")
    order = permutation(len(features), seed, "extrapolation")
    parts = [
        [order[k : k + size] for k in range(0, len(order) - size + 1, size)] for size in chosen
    ]
    everything = np.ones(len(features), bool)
    slope, limit, distances = _line(features, fixed, parts, everything)
    left_out = []
    for group in groups_of(len(features), groups, seed):
        kept = everything.copy()
        kept[group] = False
        left_out.append(_line(features, fixed, parts, kept)[1])
    return Extrapolation(
        limit=jackknife(limit, left_out), slope=slope, sizes=chosen, distances=distances
    )


def _sizes(count: int) -> tuple[int, ...]:
    inverse = np.linspace(1.0 / count, 4.0 / count, 8)
    return tuple(sorted({max(2, round(1.0 / value)) for value in inverse}))


def _line(
    features: Features,
    fixed: Moments,
    parts_of_sizes: Sequence[Sequence[NDArray[np.int64]]],
    kept: NDArray[np.bool_],
) -> tuple[float, float, tuple[float, ...]]:
    """(slope, intercept, distances) of the least-squares line, each size weighed by its parts.

    kept (N,): samples outside it are taken out of their parts, which stay as they are otherwise: a
    jackknife that dealt the parts anew would measure the dealing.
    """
    inverse, distances, weights = [], [], []
    for parts in parts_of_sizes:
        left = [part[kept[part]] for part in parts]
        found = [distance_of(Moments.of(features[part]), fixed) for part in left]
        inverse.append(float(np.mean([1.0 / len(part) for part in left])))
        distances.append(float(np.mean(found)))
        weights.append(math.sqrt(len(left)))
    slope, limit = np.polyfit(inverse, distances, 1, w=weights)
    return float(slope), float(limit), tuple(distances)
