"""What a picture looks like in 384 bytes, so that near-copies are found without its pixels.

A descriptor is the picture at 16×16: luma (16, 16), then both chroma planes at (8, 8), uint8 in
row order. Two copies of one picture that were re-encoded, resized, or cropped by a pixel differ
in it by a small shift and little noise; two pictures that differ in one small place differ by a
lot in the cells there. `alike` tells the two cases apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
CELLS = SIDE * SIDE + 2 * (SIDE // 2) ** 2
BITS = 256

# What `alike` allows of the luma plane: shift in cells, change of scale, of gain, offset and what
# remains in 8-bit steps. In chroma only the last two count: it is often too flat for the others.
# Measured on 32 px photographs and 128 px drawn scenes: copies by re-encoding, by a
# crop of one pixel and by resizing stay below, different pictures of one subject above.
_LUMA_LIMITS = np.asarray([1.0, 0.2, 0.3, 24.0, 11.0], np.float32)
_CHROMA_LIMITS = np.asarray([np.inf, np.inf, np.inf, 24.0, 10.0], np.float32)
# Detail near the size of a cell is drawn anew by every crop: this share of it may remain.
_DETAIL = 0.4

Descriptors = NDArray[np.uint8]


def describe(image: Image.Image) -> Descriptors:
    """(CELLS,) uint8 of an RGB picture of any size; its aspect ratio is not in it."""
    # The triangle filter overlaps cells, so that a small shift changes each of them only a little.
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("YCbCr")
    luma, *chroma = small.split()
    half = (SIDE // 2, SIDE // 2)
    planes = [luma, *(plane.resize(half, Image.Resampling.BOX) for plane in chroma)]
    return np.concatenate([np.asarray(plane, np.uint8).ravel() for plane in planes])


def contrast(descriptors: Descriptors) -> NDArray[np.float32]:
    """(n,) standard deviation of the luma cells: 0 for a blank picture."""
    return np.asarray(descriptors[:, : SIDE * SIDE].std(axis=1), np.float32)


def bits(descriptors: Descriptors) -> NDArray[np.uint64]:
    """(n, 4) uint64: signs of 256 fixed random projections; near-copies differ in few of them.

    The share of bits that differ is the angle between two vectors over π (Charikar 2002,
    "Similarity estimation techniques from rounding algorithms"). A vector is what remains without
    the planes' means, then the means with a small weight, then a constant, so that blank pictures
    have a stable place too.
    """
    draw = np.random.Generator(np.random.Philox(key=20260611))
    directions = draw.standard_normal((CELLS + 4, BITS), dtype=np.float32)
    found = np.empty((len(descriptors), BITS // 64), np.uint64)
    for start in range(0, len(descriptors), 16384):
        signs = _vectors(descriptors[start : start + 16384]) @ directions > 0
        packed = np.packbits(signs, axis=1).view(np.uint64)
        found[start : start + 16384] = packed
    return found


def _vectors(descriptors: Descriptors) -> NDArray[np.float32]:
    """(n, CELLS + 4): contrast-normalised planes, their means, a constant."""
    planes = [plane.reshape(len(descriptors), -1) for plane in _planes(descriptors)]
    means = np.stack([plane.mean(axis=1) for plane in planes], axis=1)
    rest = np.concatenate(
        [plane - mean[:, None] for plane, mean in zip(planes, means.T, strict=True)], axis=1
    )
    rest /= np.maximum(np.sqrt((rest**2).mean(axis=1, keepdims=True)), 8.0) * np.sqrt(CELLS)
    constant = np.full((len(descriptors), 1), 0.25, np.float32)
    return np.concatenate([rest, (means - 128) / 128, constant], axis=1).astype(np.float32)


def _planes(descriptors: Descriptors) -> tuple[NDArray[np.float32], ...]:
    """(n, 16, 16), (n, 8, 8), (n, 8, 8) float32."""
    values = descriptors.astype(np.float32)
    whole, half = SIDE * SIDE, SIDE // 2
    return (
        values[:, :whole].reshape(-1, SIDE, SIDE),
        values[:, whole : whole + half * half].reshape(-1, half, half),
        values[:, whole + half * half :].reshape(-1, half, half),
    )


def alike(first: Descriptors, second: Descriptors) -> NDArray[np.bool_]:
    """(n,) whether each pair (n, CELLS), (n, CELLS) is one picture, up to encoding and a crop.

    In each plane, the second is predicted from the first by a small shift, a small change of
    scale, a gain and an offset (one step of Lucas and Kanade 1981); these must be small, and what
    remains must be small in every patch of 3×3 cells, since another object is a local difference.
    """
    luma, *chroma = (_fit(a, b) for a, b in zip(_planes(first), _planes(second), strict=True))
    same = (luma <= _LUMA_LIMITS).all(axis=1)
    for plane in chroma:
        same &= (plane <= _CHROMA_LIMITS).all(axis=1)
    return np.asarray(same)


def _fit(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 5): shift, scale, gain and offset that lead from a to b (n, s, s), and what remains."""
    count, side, _ = a.shape
    cells = (side - 2) ** 2
    middle = (a + b) / 2  # its gradient serves both ways, so the test is symmetric
    core = middle[:, 1:-1, 1:-1]
    up, down = middle[:, :-2, 1:-1], middle[:, 2:, 1:-1]
    left, right = middle[:, 1:-1, :-2], middle[:, 1:-1, 2:]
    along_x, along_y = (right - left) / 2, (down - up) / 2
    place = np.arange(1, side - 1, dtype=np.float32) - (side - 1) / 2
    columns = np.stack(
        [
            along_x,
            along_y,
            along_x * place,
            along_y * place[:, None],
            core - core.mean(axis=(1, 2), keepdims=True),
            np.ones_like(core),
        ],
        axis=-1,
    ).reshape(count, cells, 6)
    change = (b - a)[:, 1:-1, 1:-1].reshape(count, cells, 1)
    across = columns.transpose(0, 2, 1)
    # What a plane does not determine (the shift of a blank one) is held at zero.
    ridge = np.diag(np.asarray([0.05, 0.05, 1, 1, 2.5, 1e-4], np.float32) * cells)
    found = np.linalg.solve(across @ columns + ridge, across @ change)
    remains = _patches((change - columns @ found).astype(np.float32).reshape(core.shape))
    detail = _patches(np.asarray(core - (up + down + left + right) / 4, np.float32))
    worst = (remains - _DETAIL * detail).max(axis=(1, 2))
    size = np.abs(found[:, :, 0])
    shift, scale = size[:, :2].max(axis=1), size[:, 2:4].max(axis=1)
    return np.stack([shift, scale, size[:, 4], size[:, 5], worst], axis=1)


def _patches(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root mean square over every patch of 3×3: (n, s, s) -> (n, s - 2, s - 2)."""
    power = values**2
    rows = power[:, :-2] + power[:, 1:-1] + power[:, 2:]
    return np.sqrt((rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9)
