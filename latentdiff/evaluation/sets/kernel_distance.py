"""Squared maximum mean discrepancy between two sets of features (Gretton et al. 2012).

KID (Bińkowski et al. 2018) takes the kernel (xᵀy/D + 1)³ and the unbiased estimate, whose
expectation does not depend on the number of samples. CMMD (Jayasumana et al. 2024) takes a Gaussian
kernel of σ = 10 on unit CLIP embeddings, the biased estimate, and a factor of 1000.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.sets.resampling import (
    Interval,
    check_features,
    groups_of,
    jackknife,
)

Features = NDArray[np.floating]
Kernel = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]

CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0


def polynomial_kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(xᵀy/D + 1)³ for x (N, D), y (M, D): (N, M)."""
    return np.asarray((x @ y.T / x.shape[1] + 1.0) ** 3)


def gaussian_kernel(sigma: float) -> Kernel:
    """exp(−‖x − y‖²/(2σ²))."""

    def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2.0 * x @ y.T
        return np.asarray(np.exp(-np.clip(squared, 0.0, None) / (2.0 * sigma**2)))

    return kernel


def kernel_distance(
    features: Features,
    reference: Features,
    kernel: Kernel = polynomial_kernel,
    *,
    unbiased: bool = True,
    groups: int = 20,
    seed: int = 0,
) -> Interval:
    """MMD² of features (N, D) from a reference (M, D), with a grouped jackknife over both.

    Group g of the features and group g of the reference are left out together. unbiased: leave a
    sample's likeness to itself out, which may give values slightly below 0. Memory: one block of
    N/groups · max(N, M)/groups values at a time.
    """
    check_features(features, reference)
    x, y = features.astype(np.float64), reference.astype(np.float64)
    count = min(groups, len(x), len(y))
    of_x, of_y = groups_of(len(x), count, seed), groups_of(len(y), count, seed + 1)
    sums = _Sums(
        xx=_block_sums(x, x, of_x, of_x, kernel, same=True),
        yy=_block_sums(y, y, of_y, of_y, kernel, same=True),
        xy=_block_sums(x, y, of_x, of_y, kernel, same=False),
        size_x=np.asarray([len(part) for part in of_x]),
        size_y=np.asarray([len(part) for part in of_y]),
        self_x=_self_sums(x, of_x, kernel),
        self_y=_self_sums(y, of_y, kernel),
    )
    everything = np.arange(count)
    left_out = [sums.distance(np.delete(everything, g), unbiased) for g in range(count)]
    return jackknife(sums.distance(everything, unbiased), left_out)


def kid(features: Features, reference: Features, *, groups: int = 20, seed: int = 0) -> Interval:
    """Kernel Inception Distance on any features (N, D), (M, D): polynomial kernel, unbiased.

    One estimate from all samples, rather than the mean over random subsets: the same expectation,
    a smaller variance.
    """
    return kernel_distance(features, reference, groups=groups, seed=seed)


def cmmd(features: Features, reference: Features, *, groups: int = 20, seed: int = 0) -> Interval:
    """CMMD of CLIP image embeddings (N, D), (M, D), which are brought to unit length first."""
    check_features(features, reference)
    kernel = gaussian_kernel(CMMD_SIGMA)
    found = kernel_distance(
        _unit(features), _unit(reference), kernel, unbiased=False, groups=groups, seed=seed
    )
    scaled = {
        name: CMMD_SCALE * getattr(found, name)
        for name in ("value", "standard_error", "low", "high")
    }
    return dataclasses.replace(found, **scaled)


def _unit(features: Features) -> NDArray[np.float64]:
    """Each row brought to length 1."""
    rows = features.astype(np.float64)
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Kernel values summed over blocks of groups (G, G), sizes (G,), and k(x, x) sums (G,)."""

    xx: NDArray[np.float64]
    yy: NDArray[np.float64]
    xy: NDArray[np.float64]
    size_x: NDArray[np.int64]
    size_y: NDArray[np.int64]
    self_x: NDArray[np.float64]
    self_y: NDArray[np.float64]

    def distance(self, kept: NDArray[np.int64], unbiased: bool) -> float:
        """MMD² of the samples in the kept groups."""
        n, m = int(self.size_x[kept].sum()), int(self.size_y[kept].sum())
        block = np.ix_(kept, kept)
        xx, yy = float(self.xx[block].sum()), float(self.yy[block].sum())
        cross = float(self.xy[block].sum()) / (n * m)
        if not unbiased:
            return xx / n**2 + yy / m**2 - 2.0 * cross
        xx, yy = xx - float(self.self_x[kept].sum()), yy - float(self.self_y[kept].sum())
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2.0 * cross


def _block_sums(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    of_x: list[NDArray[np.int64]],
    of_y: list[NDArray[np.int64]],
    kernel: Kernel,
    *,
    same: bool,
) -> NDArray[np.float64]:
    sums = np.zeros((len(of_x), len(of_y)))
    for i, rows in enumerate(of_x):
        for j, columns in enumerate(of_y):
            if same and j < i:
                sums[i, j] = sums[j, i]
            else:
                sums[i, j] = kernel(x[rows], y[columns]).sum()
    return sums


def _self_sums(
    x: NDArray[np.float64], parts: list[NDArray[np.int64]], kernel: Kernel
) -> NDArray[np.float64]:
    return np.asarray([float(np.trace(kernel(x[part], x[part]))) for part in parts])
