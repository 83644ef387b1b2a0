"""Latents to a small RGB picture by one matrix: cheap enough for every step.

The matrix is fitted by least squares on pairs of latents and average-pooled pixels; a model folder
may carry its own. For Stable Diffusion 1.x latents a known matrix is built in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from latentdiff.errors import UserError
from latentdiff.pixels import to_images


@dataclass(frozen=True)
class Preview:
    """pixels ≈ latents · matrix + bias, with pixels in [-1, 1]; matrix (C, 3), bias (3,)."""

    matrix: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]

    def pixels(self, latents: Tensor) -> Tensor:
        """(B, 3, h, w) in [-1, 1] from latents (B, C, h, w)."""
        matrix = torch.tensor(self.matrix, dtype=torch.float32, device=latents.device)
        bias = torch.tensor(self.bias, dtype=torch.float32, device=latents.device)
        rgb = torch.einsum("bchw,cr->brhw", latents.float(), matrix) + bias[:, None, None]
        return rgb.clamp(-1.0, 1.0)

    def images(self, latents: Tensor, size: tuple[int, int] | None = None) -> list[Image.Image]:
        """Pictures of latents (B, C, h, w), one pixel a cell, or enlarged to (width, height)."""
        pictures = to_images(self.pixels(latents))
        if size is None:
            return pictures
        return [picture.resize(size, Image.Resampling.BILINEAR) for picture in pictures]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return {"matrix": [list(row) for row in self.matrix], "bias": list(self.bias)}

    @classmethod
    def from_json(cls, value: Any, channels: int) -> Preview:
        """From {"matrix": C rows of 3, "bias": 3 numbers}; UserError for any other shape."""
        try:
            matrix = tuple((float(r), float(g), float(b)) for r, g, b in value["matrix"])
            red, green, blue = (float(x) for x in value["bias"])
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(
                "a preview needs a matrix of rows of 3 numbers and a bias of 3 numbers"
            ) from error
        if len(matrix) != channels:
            raise UserError(f"the preview has {len(matrix)} rows for {channels} latent channels")
        return cls(matrix, (red, green, blue))


STABLE_DIFFUSION_1 = Preview(
    matrix=(
        (0.298, 0.207, 0.208),
        (0.187, 0.286, 0.173),
        (-0.158, 0.189, 0.264),
        (-0.184, -0.271, -0.473),
    ),
    bias=(0.0, 0.0, 0.0),
)
"""For scaled latents of Stable Diffusion 1.x and 2.x (Turner 2022, "Decoding latents to RGB without
upscaling", Hugging Face forum)."""


def fit_preview(latents: Tensor, pixels: Tensor) -> Preview:
    """The least-squares matrix and bias from latents (N, C, h, w) to pixels (N, 3, H, W).

    pixels: in [-1, 1], H and W the same multiple of h and w; averaged over each latent cell first.
    """
    assert latents.shape[0] == pixels.shape[0], (latents.shape, pixels.shape)
    cells = adaptive_avg_pool2d(pixels.double(), (latents.shape[-2], latents.shape[-1]))
    known = latents.double().permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    known = torch.cat([known, torch.ones_like(known[:, :1])], dim=1)
    wanted = cells.permute(0, 2, 3, 1).reshape(-1, 3)
    solution = torch.linalg.lstsq(known.cpu(), wanted.cpu()).solution.tolist()
    rows = tuple((float(r), float(g), float(b)) for r, g, b in solution)
    return Preview(rows[:-1], rows[-1])
