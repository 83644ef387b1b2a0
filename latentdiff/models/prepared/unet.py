"""diffusers' U-Net made ready for many steps with the same weights and the same prompts.

What is exact and saves work: weights in the kernels' own layout; keys and values of a context once,
not at every step; one product for all blocks' timestep projections, and none where a timestep comes
again; what both halves of guidance share, up to the first cross-attention, once; channels last
without a copy into a transformer block or out of it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentdiff.models.prepared.blocks import Resnet, Told, Transformer, Upsample, repeated
from latentdiff.models.prepared.layers import Conv, Norm

CONTEXTS, TIMES = 4, 1024
"""How many contexts, and timesteps, are remembered."""


class PreparedUnet:
    """`(x, t, context, mask) -> prediction`, the same as the U-Net's up to rounding."""

    def __init__(self, unet: Any) -> None:
        """unet: one that `fits.unet_fits`."""
        self.unet = unet
        self._projections: list[nn.Linear] = []
        self._columns = 0
        self._crossings: list[Transformer] = []
        self.enter = Conv(unet.conv_in)
        self.down = [self._down(block) for block in unet.down_blocks]
        self.middle = None if unet.mid_block is None else self._middle(unet.mid_block)
        self.up = [self._up(block) for block in unet.up_blocks]
        self.norm = None if unet.conv_norm_out is None else Norm(unet.conv_norm_out, silu=True)
        self.leave = Conv(unet.conv_out)
        self._weight = torch.cat([one.weight.detach() for one in self._projections])
        self._bias = torch.cat([one.bias.detach() for one in self._projections])
        self._told: OrderedDict[int, tuple[Tensor, int, Tensor | None, Told, Tensor | None]]
        self._told = OrderedDict()
        self._times: dict[float, Tensor] = {}
        self._embeddings: dict[float, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self, x: Tensor, t: float, context: Tensor, context_mask: Tensor | None = None
    ) -> Tensor:
        """Prediction (kB, C, h, w) for x (B, C, h, w) and a context (kB, L, D).

        Row j of the context belongs to row j mod B of x. context_mask: (kB, L) bool.
        """
        told, pooled = self._tell(context, context_mask)
        rows = len(context)
        time = self._time(t) if pooled is None else self._projected(self._embedding(t) + pooled)
        hidden = self.enter(x.contiguous(memory_format=torch.channels_last))
        if len(time) > 1:
            hidden = repeated(hidden, rows)
        skips = [hidden]
        for resnets, crossings, sampler in self.down:
            for k, resnet in enumerate(resnets):
                hidden = resnet(hidden, time)
                if crossings:
                    hidden = crossings[k](hidden, told)
                skips.append(hidden)
            if sampler is not None:
                hidden = sampler(hidden)
                skips.append(hidden)
        if self.middle is not None:
            first, *resnets = self.middle[0]
            hidden = first(hidden, time)
            for crossing, resnet in zip(self.middle[1], resnets, strict=True):
                hidden = resnet(crossing(hidden, told), time)
        for resnets, crossings, upsample in self.up:
            for k, resnet in enumerate(resnets):
                skip = repeated(skips.pop(), len(hidden))
                hidden = resnet(torch.cat([hidden, skip], dim=1), time)
                if crossings:
                    hidden = crossings[k](hidden, told)
            if upsample is not None:
                height, width = skips[-1].shape[-2:]
                hidden = upsample(hidden, (height, width))
        hidden = self.leave(hidden if self.norm is None else self.norm(hidden))
        return repeated(hidden, rows)

    # Building

    def _resnets(self, block: Any) -> list[Resnet]:
        found = []
        for one in block.resnets:
            place = None
            if one.time_emb_proj is not None:
                width = one.time_emb_proj.out_features
                place = slice(self._columns, self._columns + width)
                self._columns += width
                self._projections.append(one.time_emb_proj)
            found.append(Resnet(one, place=place))
        return found

    def _transformers(self, block: Any) -> list[Transformer]:
        found = []
        for one in getattr(block, "attentions", ()):
            first = sum(len(crossing.layers) for crossing in self._crossings)
            found.append(Transformer(one, first))
            self._crossings.append(found[-1])
        return found

    def _down(self, block: Any) -> tuple[list[Resnet], list[Transformer], Conv | None]:
        sampler = None if block.downsamplers is None else Conv(block.downsamplers[0].conv)
        return self._resnets(block), self._transformers(block), sampler

    def _middle(self, block: Any) -> tuple[list[Resnet], list[Transformer]]:
        return self._resnets(block), self._transformers(block)

    def _up(self, block: Any) -> tuple[list[Resnet], list[Transformer], Upsample | None]:
        upsample = None if block.upsamplers is None else Upsample(block.upsamplers[0])
        return self._resnets(block), self._transformers(block), upsample

    # What is told

    def _tell(self, context: Tensor, mask: Tensor | None) -> tuple[Told, Tensor | None]:
        """Keys and values of a context, and what its pooled text adds to the timestep's embedding;
        kept while the same tensor is told again. A tensor made under `torch.inference_mode` does
        not say when it changes, and is asked anew each time."""
        lasting = not context.is_inference()
        known = self._told.get(id(context)) if lasting else None
        if known is not None and known[1] == context._version and known[2] is mask:
            self._told.move_to_end(id(context))
            return known[3], known[4]
        pairs = [
            layer.context.pair(context) for crossing in self._crossings for layer in crossing.layers
        ]
        bias = None
        if mask is not None:
            bias = ((1 - mask.to(context.dtype)) * -10000.0)[:, None, None]
        pooled = None
        if self.unet.config.addition_embed_type is not None:
            pooled = self.unet.add_embedding(context)
        told = Told(context, pairs, bias)
        if lasting:
            self._told[id(context)] = (context, context._version, mask, told, pooled)
        while len(self._told) > CONTEXTS:
            self._told.popitem(last=False)
        return told, pooled

    def _embedding(self, t: float) -> Tensor:
        """(1, D): the timestep's embedding."""
        if t not in self._embeddings:
            if len(self._embeddings) >= TIMES:
                self._embeddings.clear()
            told = torch.tensor([t], device=self._weight.device)
            wave = self.unet.time_proj(told).to(self._weight.dtype)
            self._embeddings[t] = self.unet.time_embedding(wave)
        return self._embeddings[t]

    def _projected(self, embedding: Tensor) -> Tensor:
        """(rows, …): all blocks' projections of an embedding, side by side."""
        return functional.linear(functional.silu(embedding), self._weight, self._bias)

    def _time(self, t: float) -> Tensor:
        """(1, …): the projections at a timestep that no text is added to."""
        if t not in self._times:
            if len(self._times) >= TIMES:
                self._times.clear()
            self._times[t] = self._projected(self._embedding(t))
        return self._times[t]
