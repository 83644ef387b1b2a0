"""The exact likelihood of data under the probability flow of a network.

Along dx/dφ = v (`diffusion.score`) the log density falls by the divergence of v (Song et al. 2021,
section 4.3 and appendix D.2; Chen et al. 2018), so that

  log p(x_0) = log N(x_T; 0, I) + ∫ div v dφ

from data (φ = 0) to noise. The divergence is the trace of v's Jacobian: exact by one backward pass
an element, or estimated without bias as eᵀ(∂v/∂x)e for random signs e (Hutchinson 1990).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentdiff.diffusion.likelihood import bits_per_dimension
from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.score import alpha_bar_to_angle, to_v


@dataclasses.dataclass(frozen=True)
class FlowLikelihood:
    """Log densities in nats per sample, (B,) float64.

    log_p: their sum; log_prior: log N(x_T; 0, I); log_volume: ∫ div v dφ; bits_per_dimension: of
    −log_p; noise: (B, …) x_T, where the flow leads the data.
    """

    log_p: Tensor
    log_prior: Tensor
    log_volume: Tensor
    bits_per_dimension: Tensor
    noise: Tensor


def flow_likelihood(
    predict: Callable[[Tensor, Tensor], Tensor],
    x_0: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    *,
    prediction_type: str = "epsilon",
    probes: Sequence[Tensor] | None = None,
) -> FlowLikelihood:
    """log p(x_0) by Heun's method from clean data over rising timesteps, of second order.

    predict(x_t, t): the network's answer (B, …), differentiable in x_t and computed for each sample
    alone; x_0: (B, …); timesteps: rising, the first of them 0 for accuracy, the last near T − 1.
    probes: vectors e shaped like x_0, of random signs; None takes the exact trace, with one
    backward pass for each element of a sample. k timesteps take 2k − 1 calls of the network. Not
    for zero terminal SNR with ε-prediction. Raises ValueError for timesteps that do not rise.
    """
    listed = list(timesteps)
    if not listed or any(a >= b for a, b in itertools.pairwise(listed)):
        raise ValueError(f"timesteps must rise, found {listed[:8]}")

    def velocity(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        def of(point: Tensor) -> Tensor:
            times = torch.full((point.shape[0],), t, dtype=torch.int64, device=point.device)
            return to_v(
                predict(point, times),
                point,
                schedule.alpha_bar_at(t),
                prediction_type=prediction_type,
                alpha_bar_prev=float(schedule.alpha_bar_prev[t]),
            )

        return _with_divergence(of, x, probes)

    x = x_0.detach().to(torch.float64)
    angle = 0.0
    # At φ = 0 there is no noise to name: v and its divergence are 0, whatever the data.
    v, divergence = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    volume = torch.zeros_like(divergence)
    for place, t in enumerate(listed):
        target = alpha_bar_to_angle(schedule.alpha_bar_at(t))
        turn = target - angle
        v_there, divergence_there = velocity(x + turn * v, t)
        x = x + 0.5 * turn * (v + v_there)
        volume = volume + 0.5 * turn * (divergence + divergence_there)
        angle = target
        if place + 1 < len(listed):
            v, divergence = velocity(x, t)
    log_prior = (-0.5 * (x.square() + math.log(2.0 * math.pi))).flatten(1).sum(dim=1)
    log_p = log_prior + volume
    return FlowLikelihood(
        log_p=log_p,
        log_prior=log_prior,
        log_volume=volume,
        bits_per_dimension=bits_per_dimension(-log_p, x_0[0].numel()),
        noise=x,
    )


def _with_divergence(
    of: Callable[[Tensor], Tensor], x: Tensor, probes: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """v(x) and the trace of its Jacobian, (B,): exact, or the mean over the probes."""
    with torch.enable_grad():
        point = x.detach().requires_grad_(True)
        v = of(point)
    if probes is None:
        elements = x[0].numel()
        vectors = [_unit(x, k) for k in range(elements)]
        share = 1.0
    else:
        vectors = [probe.to(device=x.device, dtype=v.dtype) for probe in probes]
        share = 1.0 / len(vectors)
    divergence = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for vector in vectors:
        (row,) = torch.autograd.grad(v, point, vector, retain_graph=True)
        divergence += share * (row * vector).flatten(1).sum(dim=1)
    return v.detach(), divergence


def _unit(x: Tensor, element: int) -> Tensor:
    """A basis vector for every sample: (B, …) with 1 at one element."""
    vector = torch.zeros_like(x)
    vector.flatten(1)[:, element] = 1.0
    return vector
