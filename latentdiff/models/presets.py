"""Network sizes by name, and the builders that turn them into modules with fresh weights.

`snowglobe` is the embedded model (256 px pictures, latents 8x32x32, context 24x192);
`snowglobe-wide` has the same autoencoder and towers, and a U-Net of as many parameters with twice
the arithmetic (attention at 16x16, a wider top), for training on a GPU;
`tiny` is the same shape of thing with a few thousand parameters, for tests and trials.

In diffusers' `UNet2DConditionModel`, `attention_head_dim` means the *number of heads*.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from latentdiff.errors import unknown_name

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from torch import nn
    from transformers import CLIPModel


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of one family of networks that fit together.

    picture_size: side of the training pictures in pixels.
    max_length: tokens of a prompt, begin and end marks included.
    """

    picture_size: int
    max_length: int
    text_width: int
    text_layers: int
    text_heads: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_patch: int
    projection: int
    vae_channels: tuple[int, ...]
    vae_groups: int
    latent_channels: int
    unet_channels: tuple[int, ...]
    unet_layers: int
    unet_attention: tuple[bool, ...]
    unet_heads: int
    unet_groups: int
    time_width: int | None = None
    """Width of the embedding of timestep and pooled text; None: four times the first level's."""

    @property
    def factor(self) -> int:
        """Pixels a latent cell covers along one side."""
        return int(2 ** (len(self.vae_channels) - 1))

    @property
    def latent_size(self) -> int:
        """Side of the latents of a training picture."""
        return self.picture_size // self.factor


_SNOWGLOBE = Preset(
    picture_size=256,
    max_length=24,
    text_width=192,
    text_layers=4,
    text_heads=4,
    vision_width=192,
    vision_layers=4,
    vision_heads=4,
    vision_patch=32,
    projection=192,
    vae_channels=(16, 48, 96, 96),
    vae_groups=8,
    latent_channels=8,
    unet_channels=(48, 80, 128, 176),
    unet_layers=2,
    unet_attention=(False, False, True, True),
    unet_heads=4,
    unet_groups=8,
    time_width=320,
)

PRESETS: dict[str, Preset] = {
    "snowglobe": _SNOWGLOBE,
    "snowglobe-wide": replace(
        _SNOWGLOBE,
        unet_channels=(64, 96, 128, 160),
        unet_attention=(False, True, True, True),
    ),
    "tiny": Preset(
        picture_size=32,
        max_length=24,
        text_width=32,
        text_layers=2,
        text_heads=2,
        vision_width=32,
        vision_layers=2,
        vision_heads=2,
        vision_patch=8,
        projection=32,
        vae_channels=(8, 16, 16),
        vae_groups=8,
        latent_channels=4,
        unet_channels=(16, 32),
        unet_layers=1,
        unet_attention=(False, True),
        unet_heads=2,
        unet_groups=8,
    ),
}


def get(name: str) -> Preset:
    """The preset called `name`; a UserError that names the nearest known one otherwise."""
    if name not in PRESETS:
        raise unknown_name("preset", name, tuple(PRESETS))
    return PRESETS[name]


def unet_config(preset: str) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel` for a preset."""
    p = get(preset)
    down = tuple("CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in p.unet_attention)
    up = tuple("CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in p.unet_attention[::-1])
    return {
        "sample_size": p.latent_size,
        "in_channels": p.latent_channels,
        "out_channels": p.latent_channels,
        "block_out_channels": p.unet_channels,
        "layers_per_block": p.unet_layers,
        "down_block_types": down,
        "up_block_types": up,
        "attention_head_dim": p.unet_heads,
        "cross_attention_dim": p.text_width,
        "norm_num_groups": p.unet_groups,
        "time_embedding_dim": p.time_width,
        # The pooled text joins the timestep, and both steer every level: Dhariwal & Nichol 2021's
        # adaptive group norm.
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": p.unet_heads,
        "resnet_time_scale_shift": "scale_shift",
    }


def vae_config(preset: str) -> dict[str, Any]:
    """Arguments of `AutoencoderKL` for a preset; `scaling_factor` is 1 until it is measured."""
    p = get(preset)
    levels = len(p.vae_channels)
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": p.latent_channels,
        "block_out_channels": p.vae_channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 1,
        "norm_num_groups": p.vae_groups,
        "mid_block_add_attention": False,
        "sample_size": p.picture_size,
        "scaling_factor": 1.0,
        "force_upcast": False,
    }


def clip_config(
    preset: str,
    vocab_size: int,
    *,
    bos_token_id: int,
    eos_token_id: int,
    pad_token_id: int | None = None,
) -> dict[str, Any]:
    """Arguments of `CLIPConfig` for a preset: `text_config`, `vision_config`, `projection_dim`.

    The special ids are those of the tokenizer in use (`pad_token_id` defaults to the end mark, as
    in CLIP); transformers' own defaults belong to OpenAI's vocabulary and would pool the wrong
    position here.
    """
    p = get(preset)
    return {
        "projection_dim": p.projection,
        "text_config": {
            "vocab_size": vocab_size,
            "hidden_size": p.text_width,
            "intermediate_size": 4 * p.text_width,
            "num_hidden_layers": p.text_layers,
            "num_attention_heads": p.text_heads,
            "max_position_embeddings": p.max_length,
            "projection_dim": p.projection,
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
            "pad_token_id": eos_token_id if pad_token_id is None else pad_token_id,
        },
        "vision_config": {
            "hidden_size": p.vision_width,
            "intermediate_size": 4 * p.vision_width,
            "num_hidden_layers": p.vision_layers,
            "num_attention_heads": p.vision_heads,
            "image_size": p.picture_size,
            "patch_size": p.vision_patch,
            "projection_dim": p.projection,
        },
    }


def build_unet(preset: str, *, zero_init: bool = True) -> UNet2DConditionModel:
    """A fresh U-Net, by default with zero-initialised residual branches."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet = UNet2DConditionModel(**unet_config(preset))
    if zero_init:
        zero_init_residuals(unet)
    return unet


def build_vae(preset: str, *, zero_init: bool = True) -> AutoencoderKL:
    """A fresh autoencoder, by default with zero-initialised residual branches."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae = AutoencoderKL(**vae_config(preset))
    if zero_init:
        zero_init_residuals(vae)
    return vae


def build_clip(
    preset: str,
    vocab_size: int,
    *,
    bos_token_id: int,
    eos_token_id: int,
    pad_token_id: int | None = None,
) -> CLIPModel:
    """A fresh pair of text and vision towers; see `clip_config` for the special ids."""
    from transformers import CLIPConfig, CLIPModel

    config = clip_config(
        preset,
        vocab_size,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )
    return CLIPModel(CLIPConfig(**config))


def zero_init_residuals(module: nn.Module) -> int:
    """Zero the last layer of every residual branch in place; returns how many there were.

    That is `conv2` of each `ResnetBlock2D`, `proj_out` of each `Transformer2DModel` and the output
    projection of each stand-alone attention (the autoencoder's middle). Every block starts as the
    identity (Goyal et al. 2017, section 5.1; Dhariwal & Nichol 2021), which lets small batches
    train at a high learning rate. Inside a transformer only its outer projection is zeroed: two
    zero layers in a row would pass no gradient to each other.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel
    from torch import nn

    inside: set[nn.Module] = set()
    last: list[nn.Module] = []
    for part in module.modules():
        if isinstance(part, ResnetBlock2D):
            last.append(part.conv2)
        elif isinstance(part, Transformer2DModel):
            last.append(part.proj_out)
            inside.update(part.modules())
        elif isinstance(part, Attention) and part not in inside:
            last.append(part.to_out[0])
    for layer in last:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return len(last)
