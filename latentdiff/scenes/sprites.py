"""The subjects' pictures: read once, trimmed, and drawn at any size and angle."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentdiff.scenes.brush import Float
from latentdiff.scenes.catalog import SUBJECTS

_OPAQUE = 40
"""Alpha (0 … 255) from which on a pixel counts as the subject's."""
_LEVELS = (64, 88, 112, 160)
_BORDER = 3


@lru_cache(maxsize=256)
def original(subject: str) -> Image.Image:
    """The subject's picture, RGBA, cut to its visible extent."""
    name = f"{SUBJECTS[subject].code}.webp"
    with (resources.files("latentdiff.scenes") / "assets" / name).open("rb") as file:
        picture = Image.open(file).convert("RGBA")
    visible = picture.getchannel("A").point([0] * _OPAQUE + [255] * (256 - _OPAQUE))
    box = visible.getbbox()
    return picture if box is None else picture.crop(box)


@lru_cache(maxsize=1024)
def _level(subject: str, side: int) -> tuple[Image.Image, int]:
    """The picture shrunk to a longer side of about `side`, premultiplied, and that side in full.

    A clear border keeps straight edges smooth when the picture is turned.
    """
    picture = original(subject).convert("RGBa")
    ratio = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    sheet = Image.new("RGBa", (size[0] + 2 * _BORDER, size[1] + 2 * _BORDER), (0, 0, 0, 0))
    sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (_BORDER, _BORDER))
    return sheet, max(size)


@lru_cache(maxsize=256)
def outline(subject: str) -> Float:
    """Points (n, 2) on the subject's outer edge, from its middle, in units of its longer side."""
    visible = np.asarray(original(subject).getchannel("A")) >= _OPAQUE
    height, width = visible.shape
    rows = np.flatnonzero(visible.any(axis=1))
    first = visible[rows].argmax(axis=1)
    last = width - visible[rows, ::-1].argmax(axis=1)
    x = np.concatenate([first, first, last, last]) - width / 2
    y = np.concatenate([rows, rows + 1, rows, rows + 1]) - height / 2
    points: Float = (np.stack([x, y], axis=1) / max(width, height)).astype(np.float32)
    points.setflags(write=False)
    return points


def turned_extent(subject: str, angle: float, mirrored: bool) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) about its middle of the subject turned by `angle` degrees, longer side 1."""
    points = outline(subject)
    x = -points[:, 0] if mirrored else points[:, 0]
    y = points[:, 1]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    tx, ty = c * x - s * y, s * x + c * y
    return float(tx.min()), float(ty.min()), float(tx.max()), float(ty.max())


def draw_turned(
    subject: str,
    side: float,
    angle: float,
    mirrored: bool,
    middle: tuple[float, float],
    size: int,
) -> tuple[Float, int, int]:
    """The subject as premultiplied float32 RGBA (h, w, 4), and the column and row of its corner.

    side: length of its longer side in pixels before turning; middle: where its centre lies, in
    pixels of a `size` × `size` picture; what falls outside that picture is cut off.
    """
    level = next((s for s in _LEVELS if s >= side * 0.97), 4096)
    picture, full_side = _level(subject, level)
    scale = side / full_side
    x0, y0, x1, y1 = turned_extent(subject, angle, mirrored)
    cx, cy = middle
    left, top = max(0, int(cx + x0 * side) - 2), max(0, int(cy + y0 * side) - 2)
    right, bottom = min(size, int(cx + x1 * side) + 3), min(size, int(cy + y1 * side) + 3)
    c, s = np.cos(np.radians(angle)) / scale, np.sin(np.radians(angle)) / scale
    flip = -1.0 if mirrored else 1.0
    # PIL maps output pixel centres to input positions: the inverse of mirror, turn, scale, move.
    matrix = (
        flip * c,
        flip * s,
        picture.width / 2 + flip * (c * (left - cx) + s * (top - cy)),
        -s,
        c,
        picture.height / 2 + (-s * (left - cx) + c * (top - cy)),
    )
    turned = picture.transform(
        (right - left, bottom - top),
        Image.Transform.AFFINE,
        matrix,
        resample=Image.Resampling.BICUBIC,
    )
    pixels: NDArray[np.float32] = np.asarray(turned, np.float32) * np.float32(1 / 255)
    return pixels, left, top
