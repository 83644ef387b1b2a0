"""Precision and recall of samples, by balls around each other's points.

A set's manifold is the union of balls about its points, each reaching to its k-th nearest neighbour
in the set. Precision is the share of generated samples inside the data's manifold, recall the share
of the data inside the generated one (Kynkäänniemi et al. 2019). Density and coverage use the data's
balls alone and forgive outliers (Naeem et al. 2020).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.intervals import Proportion, wilson
from latentdiff.evaluation.sets.resampling import Interval, check_features, jackknife

Features = NDArray[np.floating]
_ROWS = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Proportions with Wilson intervals, the other set's balls counting as fixed, and a density.

    density: the mean number of the data's balls that hold a generated sample, over k;
    1 for equal distributions, and it may exceed 1.
    """

    precision: Proportion
    recall: Proportion
    density: Interval
    coverage: Proportion
    k: int


def precision_recall(generated: Features, data: Features, *, k: int = 3) -> PrecisionRecall:
    """Of generated features (N, D) against the data's (M, D); k-th neighbours, 3 in the paper.

    Raises ValueError where a set has no k-th neighbour.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    check_features(generated, data, least=k + 1)
    made, real = generated.astype(np.float64), data.astype(np.float64)
    reach_made, reach_real = neighbour_distance(made, k), neighbour_distance(real, k)
    balls = np.zeros(len(made), np.int64)  # how many of the data's balls hold each sample
    covered = np.zeros(len(real), bool)  # whether a ball of the data holds any sample
    recalled = np.zeros(len(real), bool)
    for rows, distances in _distances(made, real):
        inside = distances <= reach_real[None]
        balls[rows] = inside.sum(axis=1)
        covered |= inside.any(axis=0)
        recalled |= (distances <= reach_made[rows, None]).any(axis=0)
    share = balls / k
    left_out = (share.sum() - share) / (len(share) - 1)
    return PrecisionRecall(
        precision=wilson(int((balls > 0).sum()), len(made)),
        recall=wilson(int(recalled.sum()), len(real)),
        density=jackknife(float(share.mean()), left_out),
        coverage=wilson(int(covered.sum()), len(real)),
        k=k,
    )


def neighbour_distance(features: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """The distance of every row of (N, D) to its k-th nearest other row, (N,)."""
    found = np.empty(len(features))
    for rows, distances in _distances(features, features):
        distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = np.inf
        found[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return found


def _distances(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Euclidean distances of x to y, some rows at a time, with the slice they belong to."""
    of_y = np.square(y).sum(axis=1)
    for start in range(0, len(x), _ROWS):
        rows = slice(start, min(start + _ROWS, len(x)))
        squared = np.square(x[rows]).sum(axis=1)[:, None] + of_y[None] - 2.0 * x[rows] @ y.T
        yield rows, np.sqrt(np.clip(squared, 0.0, None))
