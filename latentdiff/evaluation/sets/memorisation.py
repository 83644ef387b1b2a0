"""Does a model give its training pictures back? Nearest training latents, against held-out data.

A sample that lies much nearer to one training latent than to that one's neighbourhood is a copy
(Carlini et al. 2023, section 4.2 with its ratio of distances). A model that generalises lies as far
from the training set as held-out data does; one that copies lies nearer (Meehan et al. 2020, whose
test is the rank sum used here).
"""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.intervals import Proportion, wilson
from latentdiff.evaluation.sets.resampling import check_features

Latents = NDArray[np.floating]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbours:
    """For every sample (N,): the nearest training latent and the distances about it.

    index: its place in the training set; distance: root mean square difference of an element;
    ratio: that over the mean distance to the `near` nearest, in (0, 1]; small for a copy.
    """

    index: NDArray[np.int64]
    distance: NDArray[np.float64]
    ratio: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemorisationProbe:
    """samples, held_out: their neighbours in the training set.

    copies: the share of samples whose ratio is below `threshold`; held_out_copies: the same of
    held-out data, which are no copies: what a probe of this data finds by chance. nearer: the
    chance that a sample lies nearer to the training set than held-out data does, 1/2 for a model
    that generalises; p_value: of its being above 1/2 (one-sided rank sum, normal approximation).
    """

    samples: Neighbours
    held_out: Neighbours
    copies: Proportion
    held_out_copies: Proportion
    nearer: float
    p_value: float
    threshold: float


def memorisation(
    samples: Latents,
    training: Latents,
    held_out: Latents,
    *,
    near: int = 50,
    threshold: float = 0.5,
) -> MemorisationProbe:
    """Probe samples (N, D) against training (M, D) and held-out data (K, D), flattened latents.

    near: how many training latents make a neighbourhood, at most M. Raises ValueError for sets of
    different widths.
    """
    check_features(samples, training, held_out, least=1)
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold must lie in (0, 1], found {threshold}")
    made = nearest(samples, training, near=near)
    kept = nearest(held_out, training, near=near)
    nearer, p_value = rank_sum(made.distance, kept.distance)
    return MemorisationProbe(
        samples=made,
        held_out=kept,
        copies=wilson(int((made.ratio < threshold).sum()), len(made.ratio)),
        held_out_copies=wilson(int((kept.ratio < threshold).sum()), len(kept.ratio)),
        nearer=nearer,
        p_value=p_value,
        threshold=threshold,
    )


def nearest(queries: Latents, training: Latents, *, near: int = 50) -> Neighbours:
    """The nearest of training (M, D) to each of queries (N, D), in float64."""
    count = min(near, len(training))
    known = training.astype(np.float64)
    squares = np.square(known).sum(axis=1)
    index = np.empty(len(queries), np.int64)
    distance, ratio = np.empty(len(queries)), np.empty(len(queries))
    for n, query in enumerate(queries.astype(np.float64)):
        squared = squares - 2.0 * known @ query + float(query @ query)
        order = np.argpartition(squared, count - 1)[:count]
        # The expanded square loses digits where the distance is small: take those again.
        close = np.sqrt(np.square(known[order] - query).mean(axis=1))
        best = int(np.argmin(close))
        index[n], distance[n] = order[best], close[best]
        around = float(close.mean())
        ratio[n] = close[best] / around if around > 0.0 else 1.0
    return Neighbours(index=index, distance=distance, ratio=ratio)


def rank_sum(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """(P(first < second) + P(equal)/2, one-sided p that it is above 1/2): Mann & Whitney 1947.

    The p-value is the normal approximation with the correction for ties.
    """
    n, m = len(first), len(second)
    both = np.concatenate([first, second])
    _, place, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]  # equal values share their mean rank
    larger = float(ranks[:n].sum()) - n * (n + 1) / 2.0  # pairs in which first > second
    share = 1.0 - larger / (n * m)
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    total = n + m
    variance = n * m / 12.0 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0.0:
        return share, 1.0
    z = (share - 0.5) * n * m / math.sqrt(variance)
    return share, 1.0 - NormalDist().cdf(z)
