"""Sample sheets: pictures side by side, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def grid(pictures: Sequence[NDArray[np.uint8]], columns: int, gap: int = 2) -> Image.Image:
    """Equal pictures (H, W, 3) uint8, row by row, on white."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    size = (columns * (width + gap) + gap, rows * (height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    for k, picture in enumerate(pictures):
        place = (gap + k % columns * (width + gap), gap + k // columns * (height + gap))
        sheet.paste(Image.fromarray(picture), place)
    return sheet


def to_pixels(pictures: Tensor) -> Tensor:
    """Pictures (B, H, W, 3) uint8 to pixels (B, 3, H, W) float32 in [-1, 1], channels last."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_pictures(pixels: Tensor) -> NDArray[np.uint8]:
    """Pixels (B, 3, H, W) to pictures (B, H, W, 3) uint8; values outside [-1, 1] are clamped."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()
