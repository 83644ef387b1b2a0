"""From a decoded picture to the pixels of its bucket: one crop, one resampling.

The picture is scaled by s = max(width / W, height / H) so that it covers its bucket, and what
stands over is cropped. Both happen at once: the part of the source that will be seen is
(width / s) x (height / s) source pixels, its upper left corner at u · (what stands over), and that
part is resampled with a Lanczos filter of radius 3 target pixels, widened when scaling down, so
that nothing aliases (`PIL.Image.resize` with a fractional box). One side of the part is exactly
the source's, and a picture that has its bucket's size comes through untouched.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentdiff import seeding
from latentdiff.data.records import BadPicture
from latentdiff.errors import UserError

Crop = Literal["center", "random"]
CENTER = (0.5, 0.5)
VERSION = 1
"""Counts changes to the pixels that `fit` gives; part of every cache key."""


def fit(
    image: Image.Image,
    bucket: tuple[int, int],
    *,
    u: tuple[float, float] = CENTER,
    flip: bool = False,
    upscale: bool = False,
) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) uint8 sRGB of a picture in a bucket (width, height).

    image: mode RGB, 8 bits. u: where the crop sits, 0 (left, top) … 1 (right, bottom).
    flip: mirror left and right, after the crop.

    Raises BadPicture when the picture is smaller than the bucket and `upscale` is off.
    """
    assert image.mode == "RGB", f"a picture of mode {image.mode} was not decoded"
    width, height = bucket
    if not upscale and (image.width < width or image.height < height):
        raise BadPicture(
            "too-small",
            f"it has {image.width}x{image.height} px and was to fill {width}x{height} "
            "(has the file changed since it was listed?)",
        )
    pixels = np.array(
        image.resize(
            (width, height), Image.Resampling.LANCZOS, box=source_box(image.size, bucket, u)
        )
    )
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels


def source_box(
    size: tuple[int, int], bucket: tuple[int, int], u: tuple[float, float] = CENTER
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the part of a picture that fills a bucket, in its pixels.

    size, bucket: (width, height).
    """
    (W, H), (width, height) = size, bucket
    # Which side limits is decided in whole numbers: a rounded scale could reach over the edge.
    if W * height <= H * width:
        part_width, part_height = float(W), min(float(H), W * height / width)
    else:
        part_width, part_height = min(float(W), H * width / height), float(H)
    left, top = u[0] * (W - part_width), u[1] * (H - part_height)
    return left, top, min(left + part_width, float(W)), min(top + part_height, float(H))


def crop_and_flip(
    seed: int, position: int, *, crop: Crop = "center", flip: bool = False
) -> tuple[tuple[float, float], bool]:
    """(u, flip) of a position of the run, for `fit`.

    flip: mirror half of the visits. It is off by default everywhere: mirrored, "left of" and
    every written word are false.
    """
    u = CENTER
    if crop == "random":
        x, y = seeding.generator(seed, "crop", position).random(2)
        u = (float(x), float(y))
    return u, flip and seeding.uniform(seed, "flip", position) < 0.5


def transform_id(crop: Crop = "center") -> str:
    """What, besides bucket and flip, decides the pixels: for the keys of a cache.

    Raises UserError for random crops, of which no two are alike.
    """
    if crop == "random":
        raise UserError("random crops cannot be cached; use center crops, or no cache")
    return f"lanczos-{crop}-{VERSION}"
