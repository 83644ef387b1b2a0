"""Between uint8 pictures and the pixels that networks see: the one place for it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def to_pixels(pictures: Tensor | NDArray[np.uint8]) -> Tensor:
    """Pictures (B, H, W, 3) uint8 to pixels (B, 3, H, W) float32 in [-1, 1], channels last."""
    if not isinstance(pictures, Tensor):
        pictures = torch.from_numpy(np.ascontiguousarray(pictures))
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_pictures(pixels: Tensor) -> NDArray[np.uint8]:
    """Pixels (B, 3, H, W) to pictures (B, H, W, 3) uint8; values outside [-1, 1] are clamped. Made
    where the pixels are: a quarter of the bytes comes to the CPU.

    In diffusers' order of operations, so that pictures are equal to the bit: halved and shifted in
    the pixels' own number type, scaled in float32, rounded to even.
    """
    unit = (pixels.detach() / 2 + 0.5).clamp(0, 1)
    levels = (unit.float().permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    return levels.cpu().numpy()


def to_images(pixels: Tensor) -> list[Image.Image]:
    """PIL pictures from pixels (B, 3, H, W); see `to_pictures`."""
    return [Image.fromarray(picture) for picture in to_pictures(pixels)]
