"""Small random models for tests: real networks, real files, nothing mocked.

`tiny` has the shape of the embedded model. `stable_diffusion_1` and `stable_diffusion_2` have the
shapes of Stable Diffusion 1.5 and 2.1 with every width cut down: four U-Net levels, an autoencoder
of factor 8 with attention in its middle, 77 tokens. The weights are stirred until pictures have
contrast and depend on their prompt, or comparing them would prove little.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentdiff.models import bundle as bundles
from latentdiff.models import presets
from latentdiff.models.bundle import Bundle
from latentdiff.models.tokenizer import build_tokenizer
from latentdiff.schedulers.scheduler_config import read_config

WORDS = ("a cat in the snow", "a dog on the beach", "an owl at night", "a fox and a robot")
PROMPT = "a cat in the snow"

TINY_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
SD1_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""As Stable Diffusion 1.5 ships it, word for word."""
SD2_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""As Stable Diffusion 2.1 ships it, word for word."""


@functools.cache
def tiny(prediction_type: str = "epsilon") -> Bundle:
    """The embedded model's kind: 32 px pictures, latents 4x8x8, 24 tokens."""
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer(WORDS, presets.get("tiny").max_length)
    clip = presets.build_clip("tiny", len(tokenizer), **special_ids(tokenizer))
    return finished(
        unet=presets.build_unet("tiny", zero_init=False),
        vae=presets.build_vae("tiny", zero_init=False),
        text_encoder=CLIPTextModel(clip.config.text_config),
        tokenizer=tokenizer,
        scheduler=TINY_SCHEDULER | {"prediction_type": prediction_type},
    )


@functools.cache
def stable_diffusion_1(prediction_type: str = "epsilon") -> Bundle:
    """Stable Diffusion 1.5, narrowed; 64 px pictures, latents 4x8x8, 77 tokens."""
    torch.manual_seed(1)
    return narrowed(
        SD1_SCHEDULER | {"prediction_type": prediction_type}, heads=8, text={}, pad_token=None
    )


@functools.cache
def stable_diffusion_2() -> Bundle:
    """Stable Diffusion 2.1, narrowed: v-prediction, linear projections, "!" for padding."""
    torch.manual_seed(2)
    return narrowed(
        SD2_SCHEDULER,
        heads=[1, 2, 4, 4],
        text={"hidden_act": "gelu"},
        pad_token="!",
        use_linear_projection=True,
        upcast_attention=True,
    )


@functools.cache
def inpainting(prediction_type: str = "epsilon") -> Bundle:
    """Stable Diffusion's inpainting kind: nine channels, the five new ones not zero."""
    plain = stable_diffusion_1(prediction_type)
    unet = copy.deepcopy(plain.unet)
    first = nn.Conv2d(9, unet.conv_in.out_channels, 3, padding=1)
    torch.manual_seed(4)
    nn.init.normal_(first.weight, std=0.1)
    with torch.no_grad():
        first.weight[:, :4] = unet.conv_in.weight
        first.bias.copy_(unet.conv_in.bias)
    unet.conv_in = first.requires_grad_(False)
    unet.register_to_config(in_channels=9)
    return Bundle(
        unet=unet,
        vae=plain.vae,
        text_encoder=plain.text_encoder,
        tokenizer=plain.tokenizer,
        scheduler_config=plain.scheduler_config,
    )


def narrowed(
    scheduler: dict[str, Any],
    *,
    heads: int | list[int],
    text: dict[str, Any],
    pad_token: str | None,
    **unet: Any,
) -> Bundle:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = build_tokenizer(WORDS, 77)
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    return finished(
        unet=UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            block_out_channels=(16, 32, 64, 64),
            layers_per_block=2,
            attention_head_dim=heads,
            cross_attention_dim=32,
            norm_num_groups=8,
            **unet,
        ),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 16, 16, 16),
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=64,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=128,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=77,
                **special_ids(tokenizer),
                **text,
            )
        ),
        tokenizer=tokenizer,
        scheduler=scheduler,
    )


def special_ids(tokenizer: Any) -> dict[str, int]:
    return {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }


def finished(*, scheduler: dict[str, Any], **parts: Any) -> Bundle:
    """A frozen bundle whose weights are large enough to matter."""
    for network in (parts["unet"], parts["vae"], parts["text_encoder"]):
        network.eval().requires_grad_(False)
    stir(parts["unet"], parts["vae"])
    return Bundle(**parts, scheduler_config=read_config(scheduler))


def stir(unet: Any, vae: Any) -> None:
    """Let the prompt steer the U-Net, and the decoder reach from black to white."""
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith("attn2.to_v") and isinstance(module, nn.Linear):
                module.weight.mul_(6.0)
        unet.conv_out.weight.mul_(2.0)
        for parameter in vae.decoder.conv_out.parameters():
            parameter.mul_(1.5)


def save(bundle: Bundle, folder: Path, **options: Any) -> Path:
    """`bundle` as a folder; a shorthand."""
    return bundles.save(bundle, folder, **options)


def with_card(bundle: Bundle, **card: Any) -> Bundle:
    """The bundle with a card, as an embedded model has."""
    return dataclasses.replace(bundle, card=card)
