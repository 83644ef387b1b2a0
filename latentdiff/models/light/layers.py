"""Layers under diffusers' names: weights and shapes, without a forward, and empty until a file
fills them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from latentdiff.models.light.settings import Settings

EMPTY = "meta"
"""The device of a weight that has its shape and no memory yet."""
EXACTLY = {(torch.float16, torch.float32), (torch.bfloat16, torch.float32)}
"""Number types of which the second holds every value of the first."""


class Light(nn.Module):
    """A network's layers and weights under its library's names.

    config: with attributes, as the library's own. Its `state_dict` has the names and shapes of the
    library's module, so weights are read, checked and handed on alike. computes_in: the number
    type it is to compute in, where some weights are left as they are stored; None where all are in
    their own.
    """

    widens = False
    """Whether whatever computes with it takes matrices in a narrower type, and widens them."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.computes_in: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.computes_in or next(self.parameters()).dtype

    def leaves(self, weight: Tensor, dtype: torch.dtype) -> bool:
        """Whether a weight may stay as it is stored though the network computes in `dtype`."""
        return self.widens and weight.ndim > 1 and (weight.dtype, dtype) in EXACTLY


class Conv2d(nn.Conv2d):
    """A convolution whose weights come from a file."""

    def reset_parameters(self) -> None:
        """Nothing is drawn at random."""


class Linear(nn.Linear):
    """A linear layer whose weights come from a file."""

    def reset_parameters(self) -> None:
        """Nothing is drawn at random."""


def conv(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, padding: int = 1) -> Conv2d:
    """A convolution; 3x3 with a border of one cell by default."""
    return Conv2d(inputs, outputs, size, stride=stride, padding=padding, device=EMPTY)


def linear(inputs: int, outputs: int, *, bias: bool = True) -> Linear:
    """A linear layer."""
    return Linear(inputs, outputs, bias=bias, device=EMPTY)


def group_norm(groups: int, channels: int, eps: float) -> nn.GroupNorm:
    """A group norm; ValueError where the groups do not divide the channels."""
    return nn.GroupNorm(groups, channels, eps=eps, device=EMPTY)


def layer_norm(width: int, eps: float = 1e-5) -> nn.LayerNorm:
    """A layer norm."""
    return nn.LayerNorm(width, eps=eps, device=EMPTY)


class Resnet(nn.Module):
    """As diffusers' `ResnetBlock2D`."""

    output_scale_factor = 1.0

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int,
        eps: float,
        time: int | None = None,
        time_norm: str = "default",
    ) -> None:
        """time: width of the timestep's embedding; None without one. time_norm: "default" or
        "scale_shift"."""
        super().__init__()
        self.time_embedding_norm = time_norm
        self.norm1 = group_norm(groups, inputs, eps)
        self.conv1 = conv(inputs, outputs)
        projected = outputs if time_norm == "default" else 2 * outputs
        self.time_emb_proj = None if time is None else linear(time, projected)
        self.norm2 = group_norm(groups, outputs, eps)
        self.conv2 = conv(outputs, outputs)
        same = inputs == outputs
        self.conv_shortcut = None if same else conv(inputs, outputs, 1, padding=0)


class Attention(nn.Module):
    """As diffusers' `Attention`."""

    rescale_output_factor = 1.0

    def __init__(
        self,
        width: int,
        context: int,
        heads: int,
        *,
        bias: bool = False,
        norm: nn.GroupNorm | None = None,
    ) -> None:
        """context: width of what keys and values are made of. norm: of its own input."""
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.group_norm = norm
        self.to_q = linear(width, width, bias=bias)
        self.to_k = linear(context, width, bias=bias)
        self.to_v = linear(context, width, bias=bias)
        self.to_out = nn.ModuleList([linear(width, width), nn.Identity()])


class Sampler(nn.Module):
    """As diffusers' `Upsample2D` and `Downsample2D`."""

    def __init__(self, channels: int, *, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.conv = conv(channels, channels, stride=stride, padding=padding)


class Block(nn.Module):
    """Residual blocks with what stands behind each, and a sampler behind all."""

    def __init__(
        self,
        resnets: list[Resnet],
        attentions: list[Any] | None = None,
        **samplers: Sampler | None,
    ) -> None:
        """attentions: none for a block without; None among them where one is left out. samplers:
        `downsamplers` or `upsamplers`, and which."""
        super().__init__()
        if attentions is not None:
            self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(resnets)
        for name, sampler in samplers.items():
            setattr(self, name, None if sampler is None else nn.ModuleList([sampler]))
