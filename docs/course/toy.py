"""Points in the plane and plots for the pages of the course.

Only what is not diffusion lives here. Schedules, noising, objectives and bounds are the library's.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor

from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.sampling import denoise
from latentdiff.schedulers.protocol import Scheduler

BLUE, ORANGE, GREY = "#3465a4", "#ce5c00", "#888a85"


def spiral(count: int, seed: int = 0) -> Tensor:
    """(count, 2) float32 points on a spiral, of about unit variance."""
    generator = torch.Generator().manual_seed(seed)
    turn = 1.5 * math.pi * (1.0 + 2.0 * torch.rand(count, generator=generator))
    points = torch.stack([turn * turn.cos(), turn * turn.sin()], dim=1) / 9.5
    return points + 0.03 * torch.randn(count, 2, generator=generator)


def places(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(count, 2) points about eight places on a circle, and the place 0 … 7 of each."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 8, (count,), generator=generator)
    return PLACES[label] + 0.15 * torch.randn(count, 2, generator=generator), label


PLACES = 1.35 * torch.stack(
    [f(torch.arange(8) * (2.0 * math.pi / 8.0)) for f in (torch.cos, torch.sin)], dim=1
)
"""(8, 2) centres of `places`."""


class Exact:
    """What a perfect network says: the best ε for points about centres (K, 2), of deviation `std`.

    `exact(x_t (B, 2), t () or (B,), context) -> (B, 2)`. The context (B, 1, 1) names the one centre
    that a point belongs to; −1, or no context, leaves it open.
    """

    def __init__(self, centres: Tensor, std: float, schedule: NoiseSchedule) -> None:
        self.centres, self.std, self.schedule = centres, std, schedule

    def __call__(self, x: Tensor, t: Tensor | int, context: Tensor | None = None) -> Tensor:
        index = torch.as_tensor(t).long().expand(len(x))
        alpha_bar = self.schedule.gather(self.schedule.alpha_bar, index, x)[..., None]
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        away = (x[:, None].double() - alpha_bar.sqrt() * self.centres.double()) / variance
        likely = -0.5 * (away.square() * variance).sum(dim=2)
        if context is not None:
            named = context.reshape(-1, 1)
            other = torch.arange(len(self.centres)) != named
            likely = likely.masked_fill(other & (named >= 0), -math.inf)
        share = likely.softmax(dim=1)[..., None]
        return ((1 - alpha_bar[:, 0]).sqrt() * (share * away).sum(dim=1)).to(x.dtype)


def draw(
    denoiser: Callable[..., Tensor],
    scheduler: Scheduler,
    count: int,
    *,
    context: Tensor | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """The points (count, 2) at the start and after every step of the library's loop."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator) * scheduler.init_noise_sigma
    told = torch.full((count, 1, 1), -1.0) if context is None else context
    noise = lambda: torch.randn(count, 2, generator=generator)
    return [x, *(step.x for step in denoise(denoiser, scheduler, x, context=told, noise=noise))]


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
