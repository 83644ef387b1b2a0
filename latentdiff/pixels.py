"""Between uint8 pictures and the pixels that networks see."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_pixels(pictures: Tensor) -> Tensor:
    """Pictures (B, H, W, 3) uint8 to pixels (B, 3, H, W) float32 in [-1, 1], channels last."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_pictures(pixels: Tensor) -> NDArray[np.uint8]:
    """Pixels (B, 3, H, W) to pictures (B, H, W, 3) uint8; values outside [-1, 1] are clamped."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()
