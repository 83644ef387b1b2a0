"""Stable Diffusion's U-Net from its settings, as diffusers' `UNet2DConditionModel` lays it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from latentdiff.models.light import layers, settings
from latentdiff.models.light.layers import Attention, Block, Light, Resnet, Sampler
from latentdiff.models.light.settings import Settings, each, whole

FREE = (
    *("sample_size", "in_channels", "out_channels", "flip_sin_to_cos", "freq_shift"),
    *("down_block_types", "up_block_types", "block_out_channels", "layers_per_block"),
    *("dropout", "norm_num_groups", "norm_eps", "cross_attention_dim", "attention_head_dim"),
    *("transformer_layers_per_block", "use_linear_projection", "addition_embed_type"),
    *("upcast_attention", "resnet_time_scale_shift", "addition_embed_type_num_heads"),
    "time_embedding_dim",
)
"""Settings that may differ from diffusers' own; `fits` says how."""
CROSS = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
CROSS |= {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
WIDENED = 4
"""Times which a transformer block's feed forward is wider than the block, and the timestep's
embedding wider than the first block, where its width is not given."""


@dataclass(frozen=True)
class Wave:
    """As diffusers' `Timesteps`: how a timestep becomes sines and cosines."""

    num_channels: int
    flip_sin_to_cos: bool
    downscale_freq_shift: float
    scale: float = 1.0


def fits(config: Settings) -> bool:
    """Whether `Unet` is laid out as diffusers' U-Net of these settings is."""
    widths = config.block_out_channels
    if not isinstance(widths, list | tuple) or not settings.plain(config, FREE, settings.UNET):
        return False
    blocks = len(widths)
    several = [
        each(config[key], blocks)
        for key in ("layers_per_block", "transformer_layers_per_block", "attention_head_dim")
    ]
    types = (config.down_block_types, config.up_block_types)
    pooled = config.addition_embed_type
    return (
        blocks > 0
        and whole(*widths, *(number for one in several for number in one))
        and whole(config.in_channels, config.out_channels, config.norm_num_groups)
        and whole(config.cross_attention_dim, config.time_embedding_dim or 1)
        and all(len(one) == blocks for one in several)
        and all(isinstance(one, list | tuple) and len(one) == blocks for one in types)
        and all(str(name) in CROSS for one in types for name in one)
        and all("Down" in name for name in types[0])
        and all("Up" in name for name in types[1])
        and all(width % heads == 0 for width, heads in zip(widths, several[2], strict=True))
        and all(isinstance(config[key], float | int) for key in ("freq_shift", "norm_eps"))
        and all(
            isinstance(config[key], bool)
            for key in ("use_linear_projection", "upcast_attention", "flip_sin_to_cos")
        )
        and isinstance(config.dropout, float | int)
        and config.resnet_time_scale_shift in ("default", "scale_shift")
        and (pooled is None or (pooled == "text" and _pools(config)))
    )


def _pools(config: Settings) -> bool:
    heads = config.addition_embed_type_num_heads
    return whole(heads) and config.cross_attention_dim % heads == 0


class Unet(Light):
    """Layers and weights of a U-Net whose settings `fits`."""

    widens = True

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        widths = list(config.block_out_channels)
        first, time = widths[0], config.time_embedding_dim or WIDENED * widths[0]
        resnet = partial(
            Resnet,
            groups=config.norm_num_groups,
            eps=config.norm_eps,
            time=time,
            time_norm=config.resnet_time_scale_shift,
        )
        self.conv_in = layers.conv(config.in_channels, first)
        self.time_proj = Wave(first, config.flip_sin_to_cos, config.freq_shift)
        self.time_embedding = TimeEmbedding(first, time)
        self.add_embedding = (
            None
            if config.addition_embed_type is None
            else PooledText(config.cross_attention_dim, time, config.addition_embed_type_num_heads)
        )
        counts = each(config.layers_per_block, len(widths))
        self.down_blocks = nn.ModuleList(
            self._down(k, [first, *widths][k : k + 2], counts[k], resnet)
            for k in range(len(widths))
        )
        self.up_blocks = nn.ModuleList(
            self._up(k, counts[k] + 1, resnet) for k in reversed(range(len(widths)))
        )
        self.mid_block = Block(
            [resnet(widths[-1], widths[-1]) for _ in range(2)], [self._transformer(-1)]
        )
        self.conv_norm_out = layers.group_norm(config.norm_num_groups, first, config.norm_eps)
        self.conv_out = layers.conv(first, config.out_channels)

    def _down(self, level: int, widths: list[int], count: int, resnet: Any) -> Block:
        inputs, outputs = widths
        last = level == len(self.config.block_out_channels) - 1
        cross = CROSS[self.config.down_block_types[level]]
        return Block(
            [resnet(inputs if k == 0 else outputs, outputs) for k in range(count)],
            [self._transformer(level) for _ in range(count)] if cross else None,
            downsamplers=None if last else Sampler(outputs, stride=2),
        )

    def _up(self, level: int, count: int, resnet: Any) -> Block:
        """level: of the widths, from the last to the first."""
        widths = list(self.config.block_out_channels)
        before = widths[min(level + 1, len(widths) - 1)]
        outputs, after = widths[level], widths[max(level - 1, 0)]
        resnets = [
            resnet(
                (before if k == 0 else outputs) + (after if k == count - 1 else outputs), outputs
            )
            for k in range(count)
        ]
        cross = CROSS[self.config.up_block_types[len(widths) - 1 - level]]
        return Block(
            resnets,
            [self._transformer(level) for _ in range(count)] if cross else None,
            upsamplers=None if level == 0 else Sampler(outputs),
        )

    def _transformer(self, level: int) -> Transformer:
        config, blocks = self.config, len(self.config.block_out_channels)
        return Transformer(
            config.block_out_channels[level],
            config.cross_attention_dim,
            heads=each(config.attention_head_dim, blocks)[level],
            count=each(config.transformer_layers_per_block, blocks)[level],
            groups=config.norm_num_groups,
            flat=config.use_linear_projection,
        )


class TimeEmbedding(nn.Module):
    """As diffusers' `TimestepEmbedding`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1 = layers.linear(inputs, outputs)
        self.linear_2 = layers.linear(outputs, outputs)


class PooledText(nn.Module):
    """As diffusers' `TextTimeEmbedding`."""

    def __init__(self, context: int, time: int, heads: int) -> None:
        super().__init__()
        self.norm1 = layers.layer_norm(context)
        self.pool = Pool(context, heads)
        self.proj = layers.linear(context, time)
        self.norm2 = layers.layer_norm(time)


class Pool(nn.Module):
    """As diffusers' `AttentionPooling`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(1, width, device=layers.EMPTY))
        self.k_proj = layers.linear(width, width)
        self.q_proj = layers.linear(width, width)
        self.v_proj = layers.linear(width, width)


class Transformer(nn.Module):
    """As diffusers' `Transformer2DModel`."""

    def __init__(
        self, width: int, context: int, *, heads: int, count: int, groups: int, flat: bool
    ) -> None:
        """count: of its blocks. flat: linear layers, not 1x1 convolutions, lead in and out."""
        super().__init__()
        lead = layers.linear if flat else partial(layers.conv, size=1, padding=0)
        self.norm = layers.group_norm(groups, width, 1e-6)
        self.proj_in = lead(width, width)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, context, heads) for _ in range(count)
        )
        self.proj_out = lead(width, width)


class TransformerBlock(nn.Module):
    """As diffusers' `BasicTransformerBlock`."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm1 = layers.layer_norm(width)
        self.attn1 = Attention(width, width, heads)
        self.norm2 = layers.layer_norm(width)
        self.attn2 = Attention(width, context, heads)
        self.norm3 = layers.layer_norm(width)
        self.ff = FeedForward(width)


class FeedForward(nn.Module):
    """As diffusers' `FeedForward` with its `GEGLU`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        gate = nn.Module()
        gate.proj = layers.linear(width, 2 * WIDENED * width)
        self.net = nn.ModuleList([gate, nn.Identity(), layers.linear(WIDENED * width, width)])


def lay_out(config: Mapping[str, Any]) -> Unet | None:
    """The U-Net of a config.json, without weights; None for one that only diffusers knows."""
    found = settings.filled_in(config, settings.UNET)
    return Unet(found) if fits(found) else None
