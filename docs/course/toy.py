"""Points in the plane and plots for the pages of the course.

Only what is not diffusion lives here. Schedules, noising, objectives and bounds are the library's.
"""

from __future__ import annotations

import io
import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor

BLUE, ORANGE, GREY = "#3465a4", "#ce5c00", "#888a85"


def spiral(count: int, seed: int = 0) -> Tensor:
    """(count, 2) float32 points on a spiral, of about unit variance."""
    generator = torch.Generator().manual_seed(seed)
    turn = 1.5 * math.pi * (1.0 + 2.0 * torch.rand(count, generator=generator))
    points = torch.stack([turn * turn.cos(), turn * turn.sin()], dim=1) / 9.5
    return points + 0.03 * torch.randn(count, 2, generator=generator)


def panels(count: int, width: float = 2.3) -> tuple[plt.Figure, list[plt.Axes]]:
    """`count` square panels in a row for points."""
    figure, axes = plt.subplots(1, count, figsize=(width * count, width + 0.35), squeeze=False)
    for ax in axes[0]:
        ax.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xticks=[], yticks=[], aspect="equal")
    return figure, list(axes[0])


def dots(ax: plt.Axes, points: Tensor, title: str = "", color: str = BLUE) -> None:
    """Points (N, 2) in a panel."""
    ax.plot(points[:, 0], points[:, 1], ".", markersize=1.6, alpha=0.6, color=color)
    ax.set_title(title, fontsize=9)


def save(figure: plt.Figure, name: str) -> None:
    """Into images/ of the current folder, in 256 colours: a third of the bytes."""
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    Image.open(drawn).convert("RGB").quantize(256).save(f"images/{name}.png", optimize=True)
    plt.close(figure)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2E‖a−b‖ − E‖a−a'‖ − E‖b−b'‖ of two sets of points: 0 for equal distributions."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())
