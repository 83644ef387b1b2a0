"""Layers made ready: weights laid out once as the processor's kernels read them.

Samples are (B, C, H, W) with channels last in memory, tokens (B, N, C) are views of them.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

SPARE_BYTES = 2**30
FEW_CELLS = 16
"""Most cells (H·W) of a sample over which a convolution is one product; whatever the batch, so that
a picture does not depend on it."""
PACKED_DTYPES = (torch.float32, torch.bfloat16)


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) with channels last → (B, H·W, C), a view."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def picture(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H·W, C), contiguous, → (B, C, H, W) with channels last, a view."""
    return x.view(x.shape[0], height, width, x.shape[2]).permute(0, 3, 1, 2)


def packs(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN and MKL have a layout of their own for this weight in this number type, and
    the machine memory for it: some is left to others."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if torch.jit.is_tracing():  # for whoever lays weights out in his own way
        return False
    return (
        weight.device.type == "cpu"
        and dtype in PACKED_DTYPES
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and psutil.virtual_memory().available > 2 * weight.numel() * dtype.itemsize + SPARE_BYTES
    )


def shape_of(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """What MKL's product is given as the plain weight: for as many rows as were packed for, it
    reads the shape alone."""
    return weight.new_empty((), dtype=dtype).expand_as(weight)


def plain_weight(layer: Conv | Linear, dtype: torch.dtype) -> Tensor:
    """The weight in the samples' number type, kept from then on. Not in a trace, where whatever is
    done twice must be the same."""
    weight = layer.weight.to(dtype)
    if not torch.jit.is_tracing():
        layer.weight = weight
    return weight


class Conv:
    """A convolution. On the CPU its weight stands in oneDNN's blocked layout, into which a plain
    call brings it anew each time, as long as there is memory for a second copy. A 3x3 one over few
    cells is one product over each cell's neighbours instead: MKL reads the weight faster, and
    oneDNN's way to its kernel alone, 45 µs, is a tenth of such a convolution.

    A weight that is stored in a narrower type than the samples have is widened for that layout, or
    once, for plain calls.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        self.weight = layer.weight.detach()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.stride, self.padding = list(layer.stride), [int(p) for p in layer.padding]
        self._packed: Tensor | None = None
        self._packed_for: torch.Size | None = None
        self._plain: Tensor | None = None
        self._cells = 0

    def like(self, weight: Tensor, *, padding: int) -> Conv:
        """Another one, with its bias as often as the weight (k C', C, h, w) has its outputs."""
        other = copy.copy(self)
        other.weight, other.padding = weight, [padding, padding]
        if self.bias is not None:
            other.bias = self.bias.repeat(len(weight) // len(self.bias))
        other._packed = other._packed_for = None
        return other

    def __call__(
        self,
        x: Tensor,
        *,
        bias: Tensor | Literal[False] | None = None,
        plus: Tensor | None = None,
    ) -> Tensor:
        """bias: (C,), in place of the layer's own; False for none at all. plus: added to the
        result, of its shape."""
        told = self.bias if bias is None else None if bias is False else bias
        packed = self._packed_weight(x)
        padding, stride = self.padding, self.stride
        if packed is None or self._cells:
            if packed is None:
                found = functional.conv2d(x, plain_weight(self, x.dtype), told, stride, padding)
            else:
                found = self._product(x, packed, told)
            return found if plus is None else found.add_(plus)
        # An overload by its name: a packet looks for one at every call.
        ops = torch.ops.mkldnn._convolution_pointwise
        if plus is None:
            return ops.default(x, packed, told, padding, stride, [1, 1], 1, "none", [], "")
        return ops.binary(
            x, plus, packed, told, padding, stride, [1, 1], 1, "add", None, None, [], None
        )

    def _product(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        rows, channels, height, width = x.shape
        padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        row, down, right, _ = padded.stride()
        near = padded.as_strided(
            (rows, height, width, 3, 3, channels), (row, down, right, down, right, 1)
        )
        found = torch.ops.mkl._mkl_linear.default(
            near.reshape(self._cells, -1), packed, self._plain, bias, self._cells
        )
        return picture(found.view(rows, height * width, -1), height, width)

    def _packed_weight(self, x: Tensor) -> Tensor | None:
        """In the best layout for a sample of this shape; None for a plain call."""
        if self._packed_for != x.shape:
            self._packed_for, self._packed, self._cells = x.shape, None, 0
            if packs(self.weight, x.dtype):
                self._cells = self._as_product(x)
                self._packed = self._flat(x.dtype) if self._cells else self._blocked(x)
        return self._packed

    def _as_product(self, x: Tensor) -> int:
        """How many cells a product of them has; 0 for a convolution."""
        cells = x.shape[2] * x.shape[3]
        usual = self.weight.shape[2:] == (3, 3) and self.stride == self.padding == [1, 1]
        few = usual and cells <= FEW_CELLS and x.dtype == torch.float32
        return x.shape[0] * cells if few else 0

    def _flat(self, dtype: torch.dtype) -> Tensor:
        flat = self.weight.to(dtype).permute(0, 2, 3, 1).flatten(1).contiguous()
        packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(flat, self._cells)
        self._plain = shape_of(flat, dtype)
        return packed

    def _blocked(self, x: Tensor) -> Tensor:
        pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        packed: Tensor = pack(
            self.weight.to(x.dtype).to_mkldnn(), self.padding, self.stride, [1, 1], 1, list(x.shape)
        )
        return packed


class Norm:
    """A group norm, then SiLU where it is asked for, in one new tensor."""

    def __init__(self, layer: nn.GroupNorm, *, silu: bool) -> None:
        self.groups, self.eps, self.silu = layer.num_groups, layer.eps, silu
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()

    def __call__(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """(B, C, H, W) in and out; scale, shift: (1, C) or (B, C), of what is normed."""
        weight, bias = self.weight, self.bias
        if scale is None or shift is None:
            found = torch.group_norm(x, self.groups, weight, bias, self.eps)
        elif len(scale) == 1:
            weight, bias = weight * scale[0], torch.addcmul(shift[0], bias, scale[0])
            found = torch.group_norm(x, self.groups, weight, bias, self.eps)
        else:
            found = torch.group_norm(x, self.groups, weight, bias, self.eps)
            found = torch.addcmul(shift[:, :, None, None], found, scale[:, :, None, None])
        return functional.silu(found, inplace=True) if self.silu else found


class TokenNorm:
    """A layer norm over tokens (B, N, C)."""

    def __init__(self, layer: nn.LayerNorm) -> None:
        self.shape, self.eps = layer.normalized_shape, layer.eps
        self.weight = None if layer.weight is None else layer.weight.detach()
        self.bias = None if layer.bias is None else layer.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        """(B, N, C) in and out."""
        return torch.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class Linear:
    """A linear layer, or a 1x1 convolution as one, on tokens (B, N, C)."""

    def __init__(self, *layers: Any, often: bool = True) -> None:
        """Several layers of one input are one, their outputs side by side. often: asked again and
        again about as many tokens, so that packing the weight for MKL pays."""
        self.often = often
        self._packed: Tensor | None = None
        self._plain: Tensor | None = None
        self._packed_for = -1
        weights = [layer.weight.detach().flatten(1) for layer in layers]
        biases = [None if layer.bias is None else layer.bias.detach() for layer in layers]
        self.weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.bias: Tensor | None = None
        if any(bias is not None for bias in biases):
            self.bias = biases[0] if len(biases) == 1 else torch.cat(biases)  # type: ignore[arg-type]

    def __call__(self, x: Tensor) -> Tensor:
        """(…, C) → (…, D)."""
        rows = x.numel() // x.shape[-1]
        packed = self._packed_weight(rows, x.dtype) if self.often else None
        if packed is None:
            return functional.linear(x, plain_weight(self, x.dtype), self.bias)
        return torch.ops.mkl._mkl_linear.default(x, packed, self._plain, self.bias, rows)

    def _packed_weight(self, rows: int, dtype: torch.dtype) -> Tensor | None:
        """In MKL's layout for a product with so many rows; None for a plain call."""
        if self._packed_for != rows:
            self._packed_for, self._packed = rows, None
            if dtype == torch.float32 and packs(self.weight, dtype):
                self._packed = torch.ops.mkl._mkl_reorder_linear_weight(
                    self.weight.to(dtype).contiguous(), rows
                )
                self._plain = shape_of(self.weight, dtype)
        return self._packed
