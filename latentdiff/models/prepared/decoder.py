"""diffusers' autoencoder's decoder made ready: the same pixels, sooner."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from latentdiff.models.prepared.blocks import Resnet, Upsample
from latentdiff.models.prepared.layers import Conv, Linear, Norm, picture, tokens


class PreparedDecoder:
    """`(z) -> pixels`: raw latents (B, C, h, w) to (B, 3, H, W), `post_quant_conv` inside."""

    def __init__(self, vae: Any) -> None:
        """vae: one that `fits.decoder_fits`."""
        decoder, self._first = vae.decoder, vae.post_quant_conv
        self.enter = Conv(decoder.conv_in)
        middle = decoder.mid_block
        self.middle = [Resnet(block) for block in middle.resnets]
        self.attentions = [None if one is None else _Attention(one) for one in middle.attentions]
        self.up = [
            (
                [Resnet(one) for one in block.resnets],
                None if block.upsamplers is None else Upsample(block.upsamplers[0]),
            )
            for block in decoder.up_blocks
        ]
        self.norm, self.leave = Norm(decoder.conv_norm_out, silu=True), Conv(decoder.conv_out)

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Tensor:
        """See the class."""
        if self._first is not None:
            z = functional.conv2d(z, self._first.weight.to(z.dtype), self._first.bias)
        first, *rest = self.middle
        x = first(self.enter(z.contiguous(memory_format=torch.channels_last)))
        for attention, resnet in zip(self.attentions, rest, strict=False):
            x = resnet(x if attention is None else attention(x))
        for resnets, upsample in self.up:
            for resnet in resnets:
                x = resnet(x)
            if upsample is not None:
                x = upsample(x, (2 * x.shape[2], 2 * x.shape[3]))
        return self.leave(self.norm(x))


class _Attention:
    """diffusers' `Attention` with a group norm before it and the input added behind it."""

    def __init__(self, layer: Any) -> None:
        self.heads = int(layer.heads)
        self.norm = Norm(layer.group_norm, silu=False)
        self.query = Linear(layer.to_q, layer.to_k, layer.to_v)
        self.out = Linear(layer.to_out[0])
        self.factor = float(layer.rescale_output_factor)

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        parts = self.query(tokens(self.norm(x))).chunk(3, dim=2)
        query, key, value = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)
        found = functional.scaled_dot_product_attention(query, key, value)
        out = self.out(found.transpose(1, 2).flatten(2)).add_(tokens(x))
        return picture(out if self.factor == 1.0 else out.div_(self.factor), height, width)
