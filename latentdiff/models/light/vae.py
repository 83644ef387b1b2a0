"""A KL autoencoder from its settings, as diffusers' `AutoencoderKL` lays it out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

from torch import nn

from latentdiff.models.light import layers, settings
from latentdiff.models.light.layers import Attention, Block, Light, Resnet, Sampler
from latentdiff.models.light.settings import Settings, whole

FREE = (
    *("in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels"),
    *("layers_per_block", "latent_channels", "norm_num_groups", "sample_size", "scaling_factor"),
    *("latents_mean", "latents_std", "force_upcast", "use_quant_conv", "use_post_quant_conv"),
    "mid_block_add_attention",
)
"""Settings that may differ from diffusers' own; `fits` says how."""
EPS = 1e-6


def fits(config: Settings) -> bool:
    """Whether `Autoencoder` is laid out as diffusers' autoencoder of these settings is."""
    widths = config.block_out_channels
    return (
        isinstance(widths, list | tuple)
        and settings.plain(config, FREE, settings.VAE)
        and whole(*widths, config.layers_per_block, config.norm_num_groups, config.sample_size)
        and whole(config.in_channels, config.out_channels, config.latent_channels)
        and list(config.down_block_types) == ["DownEncoderBlock2D"] * len(widths)
        and list(config.up_block_types) == ["UpDecoderBlock2D"] * len(widths)
        and len(widths) > 0
        and isinstance(config.scaling_factor, float | int)
        and all(
            isinstance(config[key], bool)
            for key in ("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention")
        )
    )


class Autoencoder(Light):
    """Layers and weights of an autoencoder whose settings `fits`."""

    widens = True

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        channels = config.latent_channels
        flat = partial(layers.conv, size=1, padding=0)
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = flat(2 * channels, 2 * channels) if config.use_quant_conv else None
        self.post_quant_conv = flat(channels, channels) if config.use_post_quant_conv else None


class Encoder(nn.Module):
    """As diffusers' `Encoder`."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        widths, count = list(config.block_out_channels), config.layers_per_block
        resnet = partial(Resnet, groups=config.norm_num_groups, eps=EPS)
        self.conv_in = layers.conv(config.in_channels, widths[0])
        self.down_blocks = nn.ModuleList(
            Block(
                [resnet(inputs if k == 0 else outputs, outputs) for k in range(count)],
                downsamplers=None if level == len(widths) - 1 else _halved(outputs),
            )
            for level, (inputs, outputs) in enumerate(pairwise([widths[0], *widths]))
        )
        self.mid_block = _middle(config)
        self.conv_norm_out = layers.group_norm(config.norm_num_groups, widths[-1], EPS)
        self.conv_out = layers.conv(widths[-1], 2 * config.latent_channels)


class Decoder(nn.Module):
    """As diffusers' `Decoder`."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        widths, count = list(config.block_out_channels)[::-1], config.layers_per_block + 1
        resnet = partial(Resnet, groups=config.norm_num_groups, eps=EPS)
        self.conv_in = layers.conv(config.latent_channels, widths[0])
        self.up_blocks = nn.ModuleList(
            Block(
                [resnet(inputs if k == 0 else outputs, outputs) for k in range(count)],
                upsamplers=None if level == len(widths) - 1 else Sampler(outputs),
            )
            for level, (inputs, outputs) in enumerate(pairwise([widths[0], *widths]))
        )
        self.mid_block = _middle(config)
        self.conv_norm_out = layers.group_norm(config.norm_num_groups, widths[-1], EPS)
        self.conv_out = layers.conv(widths[-1], config.out_channels)


def _halved(channels: int) -> Sampler:
    """The encoder pads by itself, below and to the right alone."""
    return Sampler(channels, stride=2, padding=0)


def _middle(config: Settings) -> Block:
    """As diffusers' `UNetMidBlock2D`, with attention of one head or with none."""
    width, groups = config.block_out_channels[-1], config.norm_num_groups
    attention = None
    if config.mid_block_add_attention:
        norm = layers.group_norm(groups, width, EPS)
        attention = Attention(width, width, 1, bias=True, norm=norm)
    resnets = [Resnet(width, width, groups=groups, eps=EPS) for _ in range(2)]
    return Block(resnets, [attention])


def lay_out(config: Mapping[str, Any]) -> Autoencoder | None:
    """The autoencoder of a config.json, without weights; None for one that only diffusers knows."""
    found = settings.filled_in(config, settings.VAE)
    return Autoencoder(found) if fits(found) else None
