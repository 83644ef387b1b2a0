"""Residual and transformer blocks of diffusers' U-Net, made ready; the arithmetic is theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from latentdiff.models.prepared.layers import Conv, Linear, Norm, picture, tokens

LEAST_CELLS = 256
"""Below so many cells a doubling's convolution reads its weights longer than it multiplies."""


@dataclass(frozen=True)
class Told:
    """What the cross-attention layers are told: keys and values of each, and what is hidden.

    context: (B, L, D). pairs: for each layer in order, K and V as (B, heads, L, d). mask: added to
    scores, (B, 1, 1, L), or None.
    """

    context: Tensor
    pairs: list[tuple[Tensor, Tensor]]
    mask: Tensor | None


class Resnet:
    """diffusers' `ResnetBlock2D`: norm, SiLU, conv, the timestep, norm, SiLU, conv, and the input.

    Where all samples are at one timestep, its shift is part of the first convolution's bias, and a
    scale and shift are part of the second norm.
    """

    def __init__(self, block: Any, *, place: slice | None) -> None:
        """place: of this block's numbers in the projection of the timestep; None without one."""
        self.norm1 = Norm(block.norm1, silu=True)
        self.conv1 = Conv(block.conv1)
        self.norm2 = Norm(block.norm2, silu=True)
        self.conv2 = Conv(block.conv2)
        self.shortcut = None if block.conv_shortcut is None else Linear(block.conv_shortcut)
        self.scaled = place is not None and block.time_embedding_norm == "scale_shift"
        self.place = place
        self.factor = float(block.output_scale_factor)

    def __call__(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """x (B, C, H, W); time: (1, …) or (B, …), all blocks' projections side by side."""
        own = None if time is None or self.place is None else time[:, self.place]
        hidden = self.norm1(x)
        if own is None or self.scaled:
            hidden = self.conv1(hidden)
        elif len(own) == 1:
            bias = own[0] if self.conv1.bias is None else self.conv1.bias + own[0]
            hidden = self.conv1(hidden, bias=bias)
        else:
            hidden = self.conv1(hidden).add_(own[:, :, None, None])
        hidden = self._second_norm(hidden, own)
        height, width = x.shape[-2:]
        kept = x if self.shortcut is None else picture(self.shortcut(tokens(x)), height, width)
        found = self.conv2(hidden, plus=kept)
        return found if self.factor == 1.0 else found.div_(self.factor)

    def _second_norm(self, hidden: Tensor, own: Tensor | None) -> Tensor:
        if own is None or not self.scaled:
            return self.norm2(hidden)
        norm, (scale, shift) = self.norm2, own[:, :, None, None].chunk(2, dim=1)
        plain = functional.group_norm(hidden, norm.groups, norm.weight, norm.bias, norm.eps)
        return functional.silu(plain.mul_(1 + scale).add_(shift), inplace=True)


class Attention:
    """diffusers' `Attention` with its fused SDPA, over itself or over what it is told."""

    def __init__(self, layer: Any, *, cross: bool) -> None:
        self.layer, self.heads, self.cross = layer, int(layer.heads), cross
        self.query = Linear(layer.to_q) if cross else Linear(layer.to_q, layer.to_k, layer.to_v)
        self.out = Linear(layer.to_out[0])
        self.factor = float(layer.rescale_output_factor)
        if cross:
            self.key = Linear(layer.to_k, often=False)
            self.value = Linear(layer.to_v, often=False)

    def pair(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """K and V (B, heads, L, d) of a context (B, L, D)."""
        return self._heads(self.key(context)), self._heads(self.value(context))

    def __call__(
        self, x: Tensor, pair: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> Tensor:
        """x (B, N, C)."""
        if pair is None:
            query, *rest = (self._heads(part) for part in self.query(x).chunk(3, dim=2))
            key, value = rest
        else:
            query, (key, value) = self._heads(self.query(x)), pair
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out = self.out(found.transpose(1, 2).flatten(2))
        return out if self.factor == 1.0 else out.div_(self.factor)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Layer:
    """diffusers' `BasicTransformerBlock` with layer norms: itself, the context, feed forward."""

    def __init__(self, block: Any) -> None:
        self.norms = [block.norm1, block.norm2, block.norm3]
        self.itself = Attention(block.attn1, cross=False)
        self.context = Attention(block.attn2, cross=True)
        self.widen, self.narrow = Linear(block.ff.net[0].proj), Linear(block.ff.net[2])

    def before(self, x: Tensor) -> Tensor:
        """What does not depend on the context: (B, N, C) in and out."""
        return self.itself(self._norm(0, x), None, None).add_(x)

    def after(self, x: Tensor, told: Told, number: int) -> Tensor:
        """The rest; x may be changed. number: which of the cross-attention layers this is."""
        normed = self._norm(1, x)
        for hook in list(self.context.layer._forward_pre_hooks.values()):
            said = {"encoder_hidden_states": told.context, "attention_mask": _flat(told.mask)}
            hook(self.context.layer, (normed,), said)
        x = self.context(normed, told.pairs[number], told.mask).add_(x)
        value, gate = self.widen(self._norm(2, x)).chunk(2, dim=2)
        return self.narrow(functional.gelu(gate).mul_(value)).add_(x)

    def _norm(self, number: int, x: Tensor) -> Tensor:
        norm = self.norms[number]
        return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _flat(mask: Tensor | None) -> Tensor | None:
    """The mask as diffusers hands it to an attention layer, (B, 1, L)."""
    return None if mask is None else mask[:, 0]


class Transformer:
    """diffusers' `Transformer2DModel` over a sample: norm, projection, layers, projection."""

    def __init__(self, block: Any, first: int) -> None:
        """first: the number of its first cross-attention layer."""
        self.norm = Norm(block.norm, silu=False)
        self.enter, self.leave = Linear(block.proj_in), Linear(block.proj_out)
        self.layers = [Layer(one) for one in block.transformer_blocks]
        self.first = first

    def __call__(self, x: Tensor, told: Told) -> Tensor:
        """x (B, C, H, W); where the context has more rows, x's rows are repeated for it."""
        height, width = x.shape[-2:]
        hidden = self.enter(tokens(self.norm(x)))
        for number, layer in enumerate(self.layers):
            hidden = layer.before(hidden)
            hidden = repeated(hidden, len(told.context))
            hidden = layer.after(hidden, told, self.first + number)
        hidden = self.leave(hidden)
        return picture(hidden.add_(repeated(tokens(x), len(hidden))), height, width)


class Upsample:
    """diffusers' `Upsample2D`: nearest neighbours, then a 3x3 convolution.

    A doubled sample's neighbours are the same cell twice, so each quarter of the outputs (even or
    odd row, even or odd column) is a 2x2 convolution of the sample before it was doubled, with sums
    of the 3x3 weights: 4/9 of the products (the sub-pixel convolution of Shi et al. 2016, section
    3.2, read backwards).
    """

    def __init__(self, block: Any) -> None:
        self.conv = Conv(block.conv)
        self.width = self.conv.weight.shape[0]
        self._quarters: Conv | None = None

    def __call__(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, H, W) → (B, C', *size)."""
        rows, _, height, width = x.shape
        if size != (2 * height, 2 * width) or rows * height * width < LEAST_CELLS:
            return self.conv(functional.interpolate(x, size=size, mode="nearest"))
        if self._quarters is None:
            self._quarters = self.conv.like(quarters(self.conv.weight), padding=1)
        found = self._quarters(x)
        out = torch.empty(
            (rows, self.width, 2 * height, 2 * width),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        for number, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            part = found[:, number * self.width : (number + 1) * self.width]
            out[:, :, down::2, right::2] = part[:, :, down : down + height, right : right + width]
        return out


def quarters(weight: Tensor) -> Tensor:
    """(C', C, 3, 3) → (4 C', C, 2, 2): the kernels of the even and odd rows, times columns."""

    def halves(kernel: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        a, b, c = kernel.unbind(axis)
        return torch.stack([a, b + c], axis), torch.stack([a + b, c], axis)

    return torch.cat([both for row in halves(weight, 2) for both in halves(row, 3)])


def repeated(x: Tensor, rows: int) -> Tensor:
    """x (B, …) with its rows as often, one after the other, as make `rows`."""
    if len(x) == rows:
        return x
    return torch.cat([x] * (rows // len(x)))  # which keeps the layout; `repeat` does not
