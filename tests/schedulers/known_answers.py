"""Data whose ε* is known in closed form, an independent reference, and the shortest loop."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Data of independent elements, each Σ_k weight_k·N(mean_k, std_k²). One part: a Gaussian."""

    means: tuple[float, ...]
    stds: tuple[float, ...]
    weights: tuple[float, ...]

    def parts(self, alpha_bar: float, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (-1, *[1] * x.ndim)
        mean = torch.tensor(self.means, dtype=torch.float64).reshape(shape) * alpha_bar**0.5
        var = torch.tensor(self.stds, dtype=torch.float64).reshape(shape) ** 2
        weight = torch.tensor(self.weights, dtype=torch.float64).reshape(shape)
        return mean, var * alpha_bar + 1.0 - alpha_bar, weight

    def eps(self, x: Tensor, alpha_bar: float) -> Tensor:
        """ε* = −√(1−ᾱ)·∇log p_t(x)."""
        mean, var, weight = self.parts(alpha_bar, x)
        away = (x.double() - mean) / var
        share = torch.softmax(
            torch.log(weight) - 0.5 * torch.log(var) - 0.5 * away * (x.double() - mean), dim=0
        )
        return ((1.0 - alpha_bar) ** 0.5 * (share * away).sum(0)).to(x.dtype)

    def predict(self, x: Tensor, alpha_bar: float, kind: str) -> Tensor:
        eps = self.eps(x.double(), alpha_bar)
        if kind == "epsilon":
            return eps.to(x.dtype)
        x_0 = (x.double() - (1.0 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5
        if kind == "sample":
            return x_0.to(x.dtype)
        return (alpha_bar**0.5 * eps - (1.0 - alpha_bar) ** 0.5 * x_0).to(x.dtype)

    def cdf(self, x: Tensor, alpha_bar: float) -> Tensor:
        mean, var, weight = self.parts(alpha_bar, x)
        return (weight * torch.special.ndtr((x.double() - mean) / var.sqrt())).sum(0)

    def transport(self, x: Tensor, alpha_bar: float, to_alpha_bar: float) -> Tensor:
        """Where the probability flow takes x: in one dimension it keeps the quantile."""
        level = self.cdf(x, alpha_bar)
        low, high = torch.full_like(level, -30.0), torch.full_like(level, 30.0)
        for _ in range(80):
            middle = (low + high) / 2
            below = self.cdf(middle, to_alpha_bar) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def mean_and_variance(self) -> tuple[float, float]:
        mean = float(np.dot(self.weights, self.means))
        second = float(np.dot(self.weights, np.square(self.stds) + np.square(self.means)))
        return mean, second - mean**2


GAUSSIAN = Mixture((0.6,), (0.5,), (1.0,))
TWO_PEAKS = Mixture((-1.2, 0.9), (0.3, 0.5), (0.35, 0.65))


def normals(count: int) -> Tensor:
    """Quantiles of N(0, 1), (1, 1, 1, count) float64: a sample without sampling error."""
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.special.ndtri(u).reshape(1, 1, 1, count)


def level_at(schedule, t: float) -> float:
    """ᾱ at a timestep that may lie between two; σ = √((1−ᾱ)/ᾱ) is linear in between."""
    sigma = ((1.0 - schedule.alpha_bar) / schedule.alpha_bar).sqrt().numpy()
    return float(1.0 / (1.0 + np.interp(t, np.arange(len(sigma)), sigma) ** 2))


def walk(scheduler, data: Mixture, x: Tensor, generator: torch.Generator | None = None, steps=None):
    """The loop of latentdiff.sampling in its shortest form; noise in the order of the steps."""
    x = x * scheduler.init_noise_sigma
    for step in scheduler.grid() if steps is None else steps:
        shown = scheduler.scale_input(x, step)
        said = data.predict(shown, level_at(scheduler.schedule, step.t), scheduler.prediction_type)
        noise = None
        if scheduler.needs_noise(step):
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = scheduler.step(said, x, step, noise).x
    return x


def reference_step(kind, said, x, a, a_prev, *, std, ancestral, noise, clip=None):
    """One DDPM or DDIM step in numpy float64, written from the papers apart from the package.

    ancestral: DDPM eq. 7's mean plus std·noise; otherwise DDIM eq. 12, in which std enters the
    direction as well.
    """
    said, x, noise = (np.asarray(v, dtype=np.float64) for v in (said, x, noise))
    if kind == "epsilon":
        x_0, eps = (x - np.sqrt(1 - a) * said) / np.sqrt(a), said
    elif kind == "sample":
        x_0, eps = said, (x - np.sqrt(a) * said) / np.sqrt(1 - a)
    else:
        x_0 = np.sqrt(a) * x - np.sqrt(1 - a) * said
        eps = np.sqrt(1 - a) * x + np.sqrt(a) * said
    if clip is not None:
        x_0 = np.clip(x_0, -clip, clip)
    if not ancestral:
        return np.sqrt(a_prev) * x_0 + np.sqrt(1 - a_prev - std**2) * eps + std * noise
    alpha = a / a_prev
    mean = np.sqrt(a_prev) * (1 - alpha) / (1 - a) * x_0
    mean = mean + np.sqrt(alpha) * (1 - a_prev) / (1 - a) * x
    return mean + std * noise
