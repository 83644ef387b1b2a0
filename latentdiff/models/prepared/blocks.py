"""Residual and transformer blocks of diffusers' U-Net, made ready; the arithmetic is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from latentdiff.models.prepared.layers import Conv, Linear, Norm, TokenNorm, picture, tokens

ABSORBED_ROWS = 64
"""Most rows of a context whose matrices are absorbed: each row has its own."""
LEAST_CELLS = 256
"""Below so many cells a doubling's convolution reads its weights longer than it multiplies."""


@dataclass(frozen=True)
class Told:
    """What the cross-attention layers are told, and what is hidden.

    context: (B, L, D). keys: what each layer makes of it, in order (`Attention.keys`). mask: added
    to scores, (B, 1, 1, L), or None.
    """

    context: Tensor
    keys: list[tuple[Tensor, Tensor]]
    mask: Tensor | None

    def tensors(self, numbers: Sequence[int] | None = None) -> list[Tensor]:
        """All that the layers read, or those of these numbers, one after another."""
        asked = range(len(self.keys)) if numbers is None else numbers
        flat = [part for k in asked for part in self.keys[k]]
        return flat if self.mask is None or not flat else [*flat, self.mask]

    def of(self, tensors: Sequence[Tensor], numbers: Sequence[int] | None = None) -> Told:
        """The same with other `tensors` in the places of those."""
        asked = range(len(self.keys)) if numbers is None else numbers
        keys, mask = list(self.keys), self.mask
        for place, k in enumerate(asked):
            keys[k] = (tensors[2 * place], tensors[2 * place + 1])
        if mask is not None and len(tensors) > 2 * len(asked):
            mask = tensors[-1]
        return Told(self.context, keys, mask)


class Resnet:
    """diffusers' `ResnetBlock2D`: norm, SiLU, conv, the timestep, norm, SiLU, conv, and the input.

    Where all samples are at one timestep, its shift is the first convolution's bias, and a scale
    and shift are the second norm's.
    """

    def __init__(self, block: Any, number: int | None = None) -> None:
        """number: of its part among the projections of the timestep; None where none is told."""
        self.number = number
        self.norm1 = Norm(block.norm1, silu=True)
        self.conv1 = Conv(block.conv1)
        self.norm2 = Norm(block.norm2, silu=True)
        self.conv2 = Conv(block.conv2)
        self.shortcut = None if block.conv_shortcut is None else Linear(block.conv_shortcut)
        self.scaled = number is not None and block.time_embedding_norm == "scale_shift"
        self.factor = float(block.output_scale_factor)

    def projection_bias(self, own: Tensor) -> Tensor:
        """The bias (…,) of this block's projection with what always joins it: the first
        convolution's own bias, or the 1 of a scale, 1 + scale."""
        if self.scaled:
            scale, shift = own.chunk(2)
            return torch.cat([scale + 1, shift])
        return own if self.conv1.bias is None else own + self.conv1.bias

    def __call__(self, x: Tensor, times: Sequence[Tensor] = ()) -> Tensor:
        """x (B, C, H, W); times: (1, …) or (B, …) each, all blocks' projections of the timestep
        with their `projection_bias`."""
        own = None if self.number is None else times[self.number]
        hidden = self.norm1(x)
        if own is None or self.scaled:
            hidden = self.conv1(hidden)
        elif len(own) == 1:
            hidden = self.conv1(hidden, bias=own[0])
        else:
            hidden = self.conv1(hidden, bias=False).add_(own[:, :, None, None])
        if own is None or not self.scaled:
            hidden = self.norm2(hidden)
        else:
            hidden = self.norm2(hidden, *own.chunk(2, dim=1))
        height, width = x.shape[-2:]
        kept = x if self.shortcut is None else picture(self.shortcut(tokens(x)), height, width)
        found = self.conv2(hidden, plus=kept)
        return found if self.factor == 1.0 else found.div_(self.factor)


class SelfAttention:
    """diffusers' `Attention` with its fused SDPA, over itself."""

    def __init__(self, layer: Any) -> None:
        self.heads = int(layer.heads)
        self.query = Linear(layer.to_q, layer.to_k, layer.to_v)
        self.out = Linear(layer.to_out[0])
        self.factor = float(layer.rescale_output_factor)

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, N, C)."""
        rows, count = x.shape[:2]
        parts = self.query(x).view(rows, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        found = functional.scaled_dot_product_attention(query, key, value)
        out = self.out(found.transpose(1, 2).flatten(2))
        return out if self.factor == 1.0 else out.div_(self.factor)


class CrossAttention:
    """diffusers' `Attention` with its fused SDPA, over a context.

    The context stays the same for a whole walk, so what is multiplied with it can be multiplied
    once. Scores are x Wqᵀ Kᵀ = x (K Wq)ᵀ, and what comes out is P V Woᵀ = P (V Woᵀ): for a short
    context two products with (C, heads · L) matrices take the place of two with (C, C) and of
    those with K and V (the absorbed weights of DeepSeek-V2, 2024, section 2.1.2).
    """

    def __init__(self, layer: Any) -> None:
        self.layer, self.heads = layer, int(layer.heads)
        self.query, self.out = Linear(layer.to_q), Linear(layer.to_out[0])
        self.key = Linear(layer.to_k, often=False)
        self.value = Linear(layer.to_v, often=False)
        self.factor = float(layer.rescale_output_factor)

    def absorbs(self, context: Tensor) -> bool:
        """Whether a context (B, L, D) is short enough for the products to be fewer, and its rows'
        own matrices few enough to be kept."""
        rows, length = context.shape[:2]
        width = self.query.weight.shape[1]
        plain = self.query.bias is None and self.factor == 1.0
        return plain and rows <= ABSORBED_ROWS and self.heads * length < width + length

    def keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """What a context (B, L, D) is to this layer: K and V (B, heads, L, d), or the matrices
        (B, C, heads · L) and (B, heads · L, C) that absorb them."""
        key, value = self._heads(self.key(context)), self._heads(self.value(context))
        if not self.absorbs(context):
            return key, value
        into, out = self.query.weight.to(key.dtype), self.out.weight.to(key.dtype)
        queries = into.unflatten(0, (self.heads, -1))  # (heads, d, C)
        outs = out.unflatten(1, (self.heads, -1)).permute(1, 2, 0)  # (heads, d, C')
        scores = torch.matmul(key * key.shape[-1] ** -0.5, queries)  # (B, heads, L, C)
        return (
            scores.flatten(1, 2).transpose(1, 2).contiguous(),
            torch.matmul(value, outs).flatten(1, 2),
        )

    def __call__(
        self, x: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor | None, plus: Tensor
    ) -> Tensor:
        """x (B, N, C); plus: added to the result, of its shape."""
        first, second = keys
        if first.ndim == 3:
            return self._absorbed(x, first, second, mask, plus)
        query = self._heads(self.query(x))
        found = functional.scaled_dot_product_attention(query, first, second, attn_mask=mask)
        out = self.out(found.transpose(1, 2).flatten(2))
        return (out if self.factor == 1.0 else out.div_(self.factor)).add_(plus)

    def _absorbed(
        self, x: Tensor, first: Tensor, second: Tensor, mask: Tensor | None, plus: Tensor
    ) -> Tensor:
        rows, count = x.shape[:2]
        scores = torch.bmm(x, first).view(rows, count, self.heads, -1)
        if mask is not None:
            scores = scores + mask
        shares = scores.softmax(dim=3).view(rows, count, -1)
        bias = self.out.bias
        return torch.baddbmm(plus if bias is None else plus + bias, shares, second)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class Layer:
    """diffusers' `BasicTransformerBlock` with layer norms: itself, the context, feed forward."""

    def __init__(self, block: Any) -> None:
        self.norms = [TokenNorm(norm) for norm in (block.norm1, block.norm2, block.norm3)]
        self.itself, self.context = SelfAttention(block.attn1), CrossAttention(block.attn2)
        self.widen, self.narrow = Linear(block.ff.net[0].proj), Linear(block.ff.net[2])

    def before(self, x: Tensor) -> Tensor:
        """What does not depend on the context: (B, N, C) in and out."""
        return self.itself(self.norms[0](x)).add_(x)

    def after(self, x: Tensor, told: Told, number: int) -> Tensor:
        """The rest; x may be changed. number: which of the cross-attention layers this is."""
        normed = self.norms[1](x)
        for hook in list(self.context.layer._forward_pre_hooks.values()):
            said = {"encoder_hidden_states": told.context, "attention_mask": _flat(told.mask)}
            hook(self.context.layer, (normed,), said)
        x = self.context(normed, told.keys[number], told.mask, x)
        value, gate = self.widen(self.norms[2](x)).chunk(2, dim=2)
        return self.narrow(functional.gelu(gate).mul_(value)).add_(x)


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
        few = rows * height * width < LEAST_CELLS
        if few or size != (2 * height, 2 * width) or torch.jit.is_tracing():
            return self.conv(functional.interpolate(x, size=size, mode="nearest"))
        if self._quarters is None:
            self._quarters = self.conv.like(quarters(self.conv.weight.to(x.dtype)), padding=1)
        found = self._quarters(x)
        places = ((0, 0), (0, 1), (1, 0), (1, 1))
        parts = [
            part[:, :, down : down + height, right : right + width]
            for part, (down, right) in zip(found.split(self.width, dim=1), places, strict=True)
        ]
        out = torch.empty(
            (rows, self.width, 2 * height, 2 * width),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        for part, (down, right) in zip(parts, places, strict=True):
            out[:, :, down::2, right::2] = part
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
