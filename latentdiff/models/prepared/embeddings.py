"""What diffusers' U-Net adds to every block: the timestep, and for some models the whole text."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from latentdiff.models.prepared.layers import Linear

MAX_PERIOD = 10_000


def wave(steps: Any, t: Tensor) -> Tensor:
    """Sines and cosines (B, D) float32 of timesteps (B,) (Vaswani et al. 2017, section 3.5).

    steps: diffusers' `Timesteps`, or what has its numbers.
    """
    half = steps.num_channels // 2
    exponent = -math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(exponent / (half - steps.downscale_freq_shift))
    angles = steps.scale * (t[:, None].float() * frequencies[None])
    parts = [torch.sin(angles), torch.cos(angles)]
    found = torch.cat(parts[::-1] if steps.flip_sin_to_cos else parts, dim=-1)
    return functional.pad(found, (0, steps.num_channels % 2))


class TimeEmbedding:
    """diffusers' `TimestepEmbedding`: (B, D) → (B, E)."""

    def __init__(self, layer: Any) -> None:
        self.first, self.second = (
            Linear(one, often=False) for one in (layer.linear_1, layer.linear_2)
        )

    def __call__(self, x: Tensor) -> Tensor:
        return self.second(functional.silu(self.first(x)))


class PooledText:
    """diffusers' `TextTimeEmbedding`: a context (B, L, D), pooled by attention, → (B, E)."""

    def __init__(self, layer: Any) -> None:
        pool = layer.pool
        self.norms = [layer.norm1, layer.norm2]
        self.heads, self.place = int(pool.num_heads), pool.positional_embedding.detach()
        self.query, self.key, self.value, self.out = (
            Linear(one, often=False) for one in (pool.q_proj, pool.k_proj, pool.v_proj, layer.proj)
        )

    def __call__(self, context: Tensor) -> Tensor:
        x = self._norm(0, context)
        mean = x.mean(dim=1, keepdim=True) + self.place.to(x.dtype)
        x = torch.cat([mean, x], dim=1)
        query, key, value = (
            layer(part).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, part in ((self.query, mean), (self.key, x), (self.value, x))
        )
        # Scaled on both sides: half precision would overflow in the product.
        scale = query.shape[-1] ** -0.25
        weights = (query * scale) @ (key * scale).transpose(2, 3)
        shares = torch.softmax(weights.float(), dim=-1).to(weights.dtype)
        return self._norm(1, self.out((shares @ value).transpose(1, 2).flatten(2)[:, 0]))

    def _norm(self, number: int, x: Tensor) -> Tensor:
        norm = self.norms[number]
        return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
