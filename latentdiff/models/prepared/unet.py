"""diffusers' U-Net made ready for many steps with the same weights and the same prompts.

What is exact and saves work: weights in the kernels' own layout; keys and values of a context once,
not at every step; one product for all blocks' timestep projections, and none where a timestep comes
again; what both halves of guidance share, up to the first cross-attention, once; channels last
without a copy into a transformer block or out of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentdiff.models.prepared.blocks import Resnet, Told, Transformer, Upsample, repeated
from latentdiff.models.prepared.deep_cache import DeepCache
from latentdiff.models.prepared.embeddings import PooledText, TimeEmbedding, wave
from latentdiff.models.prepared.layers import Conv, Norm

CONTEXTS, TIMES = 4, 1024
"""How many contexts, and timesteps, are remembered."""
Down = tuple[list[Resnet], list[Transformer], Conv | None]
Up = tuple[list[Resnet], list[Transformer], Upsample | None]
Times = Sequence[Tensor]


class PreparedUnet:
    """`(x, t, context, mask) -> prediction`, the same as the U-Net's up to rounding."""

    def __init__(self, unet: Any) -> None:
        """unet: one that `fits.unet_fits`."""
        self._wave = unet.time_proj
        self._embed = TimeEmbedding(unet.time_embedding)
        pool = getattr(unet, "add_embedding", None)
        self._pool = None if pool is None else PooledText(pool)
        self._projections: list[nn.Linear] = []
        self._biases: list[Tensor] = []
        self._crossings: list[Transformer] = []
        self.enter = Conv(unet.conv_in)
        self.down = [self._down(block) for block in unet.down_blocks]
        self.middle = None if unet.mid_block is None else self._middle(unet.mid_block)
        self.up = [self._up(block) for block in unet.up_blocks]
        self.norm = None if unet.conv_norm_out is None else Norm(unet.conv_norm_out, silu=True)
        self.leave = Conv(unet.conv_out)
        weights = [one.weight.detach().to(unet.dtype) for one in self._projections]
        self._weight = torch.cat(weights)
        self._bias = torch.cat(self._biases)
        self._widths = [len(bias) for bias in self._biases]
        self._told: OrderedDict[int, tuple[Tensor, int, Tensor | None, Told, Tensor | None]]
        self._told = OrderedDict()
        self._times: dict[float, Tensor] = {}
        self._embeddings: dict[float, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        t: float,
        context: Tensor,
        context_mask: Tensor | None = None,
        *,
        deep: DeepCache | None = None,
    ) -> Tensor:
        """Prediction (kB, C, h, w) for x (B, C, h, w) and a context (kB, L, D).

        Row j of the context belongs to row j mod B of x. context_mask: (kB, L) bool. deep: what is
        kept from one step of a walk to the next.
        """
        told, pooled = self._tell(context, context_mask)
        time = self._time(t) if pooled is None else self._projected(self._embedding(t) + pooled)
        if self.watched:
            return self.walk(x, time, told, deep)
        with torch.inference_mode():  # a seventh of what a thousand operations cost besides
            found = self.walk(x, time, told, deep)
        return found.clone()

    def walk(self, x: Tensor, time: Tensor, told: Told, deep: DeepCache | None = None) -> Tensor:
        """The network itself, with what is told and projected: (B, C, h, w) → (kB, C, h, w)."""
        rows, times = len(told.context), time.split(self._widths, dim=1)
        hidden = self.enter(x.contiguous(memory_format=torch.channels_last))
        if len(time) > 1:
            hidden = repeated(hidden, rows)
        skips = [hidden]
        hidden = self._descend(self.down[0], hidden, skips, times, told)
        kept = None if deep is None else deep.due(hidden.shape, rows)
        if kept is None:
            shape = hidden.shape
            kept = self._below(hidden, skips, times, told)
            if deep is not None:
                deep.keep(kept, shape, rows)
        hidden = self._ascend(self.up[-1], kept, skips, times, told)
        hidden = self.leave(hidden if self.norm is None else self.norm(hidden))
        return repeated(hidden, rows)

    @property
    def watched(self) -> bool:
        """Whether someone looks at the cross-attention (`models.attention`)."""
        layers = (layer for crossing in self._crossings for layer in crossing.layers)
        return any(layer.context.layer._forward_pre_hooks for layer in layers)

    def _below(self, hidden: Tensor, skips: list[Tensor], times: Times, told: Told) -> Tensor:
        """From the first level's end down, through the middle, and up to the last level."""
        hidden = self._sampled(self.down[0], hidden, skips)
        for level in self.down[1:]:
            hidden = self._descend(level, hidden, skips, times, told)
            hidden = self._sampled(level, hidden, skips)
        if self.middle is not None:
            first, *resnets = self.middle[0]
            hidden = first(hidden, times)
            for crossing, resnet in zip(self.middle[1], resnets, strict=True):
                hidden = resnet(crossing(hidden, told), times)
        for above in self.up[:-1]:
            hidden = self._ascend(above, hidden, skips, times, told)
        return hidden

    def _descend(
        self, level: Down, hidden: Tensor, skips: list[Tensor], times: Times, told: Told
    ) -> Tensor:
        for k, resnet in enumerate(level[0]):
            hidden = resnet(hidden, times)
            if level[1]:
                hidden = level[1][k](hidden, told)
            skips.append(hidden)
        return hidden

    def _sampled(self, level: Down, hidden: Tensor, skips: list[Tensor]) -> Tensor:
        if level[2] is not None:
            hidden = level[2](hidden)
            skips.append(hidden)
        return hidden

    def _ascend(
        self, level: Up, hidden: Tensor, skips: list[Tensor], times: Times, told: Told
    ) -> Tensor:
        for k, resnet in enumerate(level[0]):
            skip = repeated(skips.pop(), len(hidden))
            hidden = resnet(torch.cat([hidden, skip], dim=1), times)
            if level[1]:
                hidden = level[1][k](hidden, told)
        if level[2] is not None:
            height, width = skips[-1].shape[-2:]
            hidden = level[2](hidden, (height, width))
        return hidden

    # Building

    def _resnets(self, block: Any) -> list[Resnet]:
        found = []
        for one in block.resnets:
            resnet = Resnet(one, len(self._projections))
            found.append(resnet)
            self._projections.append(one.time_emb_proj)
            self._biases.append(resnet.projection_bias(one.time_emb_proj.bias.detach()))
        return found

    def _transformers(self, block: Any) -> list[Transformer]:
        found = []
        for one in getattr(block, "attentions", ()):
            first = sum(len(crossing.layers) for crossing in self._crossings)
            found.append(Transformer(one, first))
            self._crossings.append(found[-1])
        return found

    def _down(self, block: Any) -> Down:
        sampler = None if block.downsamplers is None else Conv(block.downsamplers[0].conv)
        return self._resnets(block), self._transformers(block), sampler

    def _middle(self, block: Any) -> tuple[list[Resnet], list[Transformer]]:
        return self._resnets(block), self._transformers(block)

    def _up(self, block: Any) -> Up:
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
        keys = [
            layer.context.keys(context) for crossing in self._crossings for layer in crossing.layers
        ]
        bias = None
        if mask is not None:
            bias = ((1 - mask.to(context.dtype)) * -10000.0)[:, None, None]
        pooled = None if self._pool is None else self._pool(context)
        told = Told(context, keys, bias)
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
            # Filled there: a number that is copied there is waited for.
            told = torch.full((1,), t, device=self._weight.device)
            self._embeddings[t] = self._embed(wave(self._wave, told).to(self._weight.dtype))
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
