"""Layers made ready: weights laid out once as the processor's kernels read them.

Samples are (B, C, H, W) with channels last in memory, tokens (B, N, C) are views of them.
"""

from __future__ import annotations

import copy
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

SPARE_BYTES = 2**30
PACKED_DTYPES = (torch.float32, torch.bfloat16)


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) with channels last → (B, H·W, C), a view."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def picture(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H·W, C) → (B, C, H, W) with channels last, a view."""
    return x.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def packs(weight: Tensor) -> bool:
    """Whether oneDNN and MKL have a layout of their own for this weight, and the machine memory for
    it: some is left to others."""
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return (
        weight.device.type == "cpu"
        and weight.dtype in PACKED_DTYPES
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and psutil.virtual_memory().available > 2 * weight.nbytes + SPARE_BYTES
    )


class Conv:
    """A convolution. On the CPU its weight stands in oneDNN's blocked layout, into which a plain
    call brings it anew each time, as long as there is memory for a second copy."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.weight = layer.weight.detach()
        self.bias = None if layer.bias is None else layer.bias.detach()
        self.stride, self.padding = list(layer.stride), [int(p) for p in layer.padding]
        self._packed: Tensor | None = None
        self._packed_for: torch.Size | None = None

    def like(self, weight: Tensor, *, padding: int) -> Conv:
        """Another one, with its bias as often as the weight (k C', C, h, w) has its outputs."""
        other = copy.copy(self)
        other.weight, other.padding = weight, [padding, padding]
        if self.bias is not None:
            other.bias = self.bias.repeat(len(weight) // len(self.bias))
        other._packed = other._packed_for = None
        return other

    def __call__(
        self, x: Tensor, *, bias: Tensor | None = None, plus: Tensor | None = None
    ) -> Tensor:
        """bias: (C,), in place of the layer's own. plus: added to the result, of its shape."""
        bias = self.bias if bias is None else bias
        packed = self._packed_weight(x)
        if packed is None:
            found = functional.conv2d(x, self.weight, bias, self.stride, self.padding)
            return found if plus is None else found.add_(plus)
        where = (self.padding, self.stride, [1, 1], 1)
        ops = torch.ops.mkldnn
        if plus is None:
            return ops._convolution_pointwise(x, packed, bias, *where, "none", [], "")
        return ops._convolution_pointwise.binary(
            x, plus, packed, bias, *where, "add", None, None, [], None
        )

    def _packed_weight(self, x: Tensor) -> Tensor | None:
        """In oneDNN's best layout for a sample of this shape; None for a plain call."""
        if self._packed_for != x.shape:
            self._packed_for, self._packed = x.shape, None
            if packs(self.weight):
                pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
                self._packed = pack(
                    self.weight.to_mkldnn(), self.padding, self.stride, [1, 1], 1, list(x.shape)
                )
        return self._packed


class Norm:
    """A group norm, then SiLU where it is asked for, in one new tensor."""

    def __init__(self, layer: nn.GroupNorm, *, silu: bool) -> None:
        self.groups, self.eps, self.silu = layer.num_groups, layer.eps, silu
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in and out."""
        found = functional.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        return functional.silu(found, inplace=True) if self.silu else found


class Linear:
    """A linear layer, or a 1x1 convolution as one, on tokens (B, N, C)."""

    def __init__(self, *layers: Any, often: bool = True) -> None:
        """Several layers of one input are one, their outputs side by side. often: asked again and
        again about as many tokens, so that packing the weight for MKL pays."""
        self.often = often
        self._packed: Tensor | None = None
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
        packed = self._packed_weight(rows) if self.often else None
        if packed is None:
            return functional.linear(x, self.weight, self.bias)
        return torch.ops.mkl._mkl_linear(x, packed, self.weight, self.bias, rows)

    def _packed_weight(self, rows: int) -> Tensor | None:
        """In MKL's layout for a product with so many rows; None for a plain call."""
        if self._packed_for != rows:
            self._packed_for, self._packed = rows, None
            if self.weight.dtype == torch.float32 and packs(self.weight):
                self._packed = torch.ops.mkl._mkl_reorder_linear_weight(
                    self.weight.contiguous(), rows
                )
        return self._packed
