"""How far apart two pictures are, and the linear floor that an autoencoder must beat.

Pictures here are uint8, H W C; a stack of them is N H W C. Numpy only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
Box = tuple[int, int, int, int]

# Identical pictures have an infinite PSNR; a mean needs a number. Half a grey level of error in
# a single one of 128·128·3 values is already below this.
PSNR_CEILING = 100.0


def psnr(a: Pictures, b: Pictures) -> NDArray[np.float64]:
    """Per-picture 8-bit PSNR in dB, 10·log10(255² / MSE), of two (N, H, W, C) stacks -> (N,).

    The mean over pictures of this (not the PSNR of the mean error) is what reports print.
    """
    _check_pair(a, b)
    # A picture at a time: a stack of 512 in float64 would fill a gigabyte.
    errors = [np.mean((x.astype(np.float64) - y) ** 2) for x, y in zip(a, b, strict=True)]
    return _decibels(np.asarray(errors, dtype=np.float64))


def psnr_in_boxes(
    a: Pictures, b: Pictures, boxes: Sequence[Sequence[Box]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """PSNR inside every (x0, y0, x1, y1) box, right and lower edges exclusive.

    `boxes[n]` are the boxes of picture n, in pixels; what sticks out is cut off. Returns the
    PSNR of each box in order, and the picture that it belongs to; empty boxes are left out.
    """
    _check_pair(a, b)
    if len(boxes) != len(a):
        raise ValueError(f"{len(boxes)} lists of boxes for {len(a)} pictures")
    errors: list[float] = []
    owners: list[int] = []
    height, width = a.shape[1:3]
    for n, of_picture in enumerate(boxes):
        for x0, y0, x1, y1 in of_picture:
            rows = slice(max(0, y0), min(height, y1))
            columns = slice(max(0, x0), min(width, x1))
            part = a[n, rows, columns].astype(np.float64) - b[n, rows, columns]
            if part.size:
                errors.append(float(np.mean(part**2)))
                owners.append(n)
    return _decibels(np.asarray(errors, dtype=np.float64)), np.asarray(owners, dtype=np.int64)


def _check_pair(a: Pictures, b: Pictures) -> None:
    if a.ndim != 4 or a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(
            f"two equal uint8 stacks N H W C expected; found {a.dtype} {a.shape}, "
            f"{b.dtype} {b.shape}"
        )


def _decibels(mse: NDArray[np.float64]) -> NDArray[np.float64]:
    floor = 255.0**2 * 10.0 ** (-PSNR_CEILING / 10.0)
    return np.asarray(10.0 * np.log10(255.0**2 / np.maximum(mse, floor)), dtype=np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchPCA:
    """The best linear autoencoder of f×f patches with c numbers a patch.

    `mean` (D,), `components` (c, D) with orthonormal rows, D = f·f·3, in grey levels 0…255.
    """

    factor: int
    mean: NDArray[np.float64]
    components: NDArray[np.float64]

    def reconstruct(self, pictures: Pictures) -> Pictures:
        """Project every patch on the components and back, rounded and clipped to uint8."""
        restored = np.empty_like(pictures)
        for n, picture in enumerate(pictures):
            centred = to_patches(picture[None], self.factor) - self.mean
            levels = centred @ self.components.T @ self.components + self.mean
            rounded = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
            restored[n] = from_patches(rounded, (1, *picture.shape), self.factor)[0]
        return restored


def fit_patch_pca(pictures: Pictures, factor: int, channels: int) -> PatchPCA:
    """Fit PCA to all factor×factor patches of (N, H, W, 3) pictures; keep `channels` components.

    An autoencoder with this factor and channel count stores as many numbers; the PSNR of this
    PCA on unseen pictures is the floor beside which its own is printed.
    """
    patches = to_patches(pictures, factor).astype(np.float64)
    if not 1 <= channels <= patches.shape[1]:
        raise ValueError(f"{channels} components of {patches.shape[1]}-dimensional patches")
    mean = patches.mean(axis=0)
    centred = patches - mean
    _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    # eigh sorts upward; the last columns carry the most variance.
    return PatchPCA(factor=factor, mean=mean, components=vectors[:, ::-1][:, :channels].T.copy())


def pca_floor(train: Pictures, test: Pictures, factor: int, channels: int) -> NDArray[np.float64]:
    """Per-picture PSNR in dB of patch PCA, fitted on `train`, measured on `test`."""
    return psnr(test, fit_patch_pca(train, factor, channels).reconstruct(test))


def to_patches(pictures: Pictures, factor: int) -> Pictures:
    """(N, H, W, C) -> (N·H/f·W/f, f·f·C), rows in reading order."""
    n, height, width, c = pictures.shape
    if height % factor or width % factor:
        raise ValueError(f"{width}×{height} pictures do not divide into {factor}×{factor} patches")
    grid = pictures.reshape(n, height // factor, factor, width // factor, factor, c)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, factor * factor * c)


def from_patches(patches: Pictures, shape: tuple[int, ...], factor: int) -> Pictures:
    """The inverse of `to_patches`; `shape` is (N, H, W, C)."""
    n, height, width, c = shape
    grid = patches.reshape(n, height // factor, width // factor, factor, factor, c)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, c)
