"""Source pictures and masks for tests, made of arithmetic."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def picture(width: int = 64, height: int = 64) -> Image.Image:
    """Smooth colours with an edge in them, another at every pixel."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 255 * x / max(1, width - 1)
    green = 255 * y / max(1, height - 1)
    blue = 127 + 120 * np.sin(x / 5) * np.cos(y / 7)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).round().astype(np.uint8))


def mask(
    width: int = 64, height: int = 64, box: tuple[int, int, int, int] = (16, 8, 48, 40)
) -> Image.Image:
    """White in the box (left, top, right, bottom), black elsewhere."""
    image = Image.new("L", (width, height))
    left, top, right, bottom = box
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return image
