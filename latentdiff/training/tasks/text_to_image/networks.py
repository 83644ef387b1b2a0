"""The networks of a run: those of a base model, or frozen parts and a U-Net from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from latentdiff import seeding
from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.lora.layers import add_lora
from latentdiff.models.presets import build_unet
from latentdiff.schedulers.scheduler_config import SchedulerConfig
from latentdiff.training.frozen import load_text_encoder, load_vae
from latentdiff.training.tasks.text_to_image.text_to_image_config import TextToImageConfig

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True)
class Networks:
    """What a run trains and what it stands on.

    base: name of the base model, "" from nothing; base_hashes: part -> SHA-256 of its weights;
    card: its `snowglobe.json`, where it has one.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: SchedulerConfig
    base: str = ""
    base_hashes: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Side in pixels of the pictures that the U-Net was made for."""
        own = self.unet.config.sample_size
        return int(own if isinstance(own, int) else max(own)) * Autoencoder(self.vae).factor

    @property
    def multiple(self) -> int:
        """What the sides of a picture must be multiples of, in pixels."""
        levels = len(self.unet.config.block_out_channels)
        return Autoencoder(self.vae).factor * 2 ** (levels - 1)

    def bundle(self, **changes: Any) -> bundles.Bundle:
        """These networks as a whole model in memory, some of them replaced."""
        parts: dict[str, Any] = {
            "unet": self.unet,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
            "scheduler_config": self.scheduler_config,
            "card": self.card,
        }
        return bundles.Bundle(**{**parts, **changes})


def load_networks(config: TextToImageConfig) -> Networks:
    """Build or load the networks, and mark what learns; all of them float32, on the CPU."""
    networks = _of_base(config) if config.base is not None else _from_nothing(config)
    _mark(networks, config)
    return networks


def _of_base(config: TextToImageConfig) -> Networks:
    assert config.base is not None
    base = bundles.load(config.base)
    return Networks(
        unet=base.unet,
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        scheduler_config=config.scheduler_config(base.scheduler_config),
        base=config.base,
        base_hashes=base.hashes,
        card=base.card,
    )


def _from_nothing(config: TextToImageConfig) -> Networks:
    if config.vae is None or config.clip is None:
        raise UserError(
            "training text-to-image from nothing needs --vae and --clip, exports of `latentdiff "
            "train vae` and `latentdiff train clip`; to fine-tune a model, give --base"
        )
    vae = load_vae(config.vae)
    text_encoder, tokenizer = load_text_encoder(config.clip)
    torch.manual_seed(seeding.integers(2**31, config.train.seed, "initial weights"))
    return Networks(
        unet=build_unet(config.model),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler_config=config.scheduler_config(),
    )


def _mark(networks: Networks, config: TextToImageConfig) -> None:
    """Set what requires grad: everything, or the LoRA that is added here."""
    trained = networks.text_encoder if config.train_text_encoder else None
    if config.method == "lora":
        add_lora(networks.unet, trained, config.lora, config.train.seed)
    else:
        networks.unet.requires_grad_(True)
        if trained is not None:
            trained.requires_grad_(True)
    if config.gradient_checkpointing:
        networks.unet.enable_gradient_checkpointing()
        if trained is not None:
            trained.gradient_checkpointing_enable()
