"""The networks of a run: those of a base model, or frozen parts and a U-Net from nothing."""

from __future__ import annotations

import dataclasses

import torch

from latentdiff import seeding
from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models.bundle import Bundle
from latentdiff.models.geometry import Geometry, of_configs
from latentdiff.models.learned_word import teach
from latentdiff.models.lora.layers import add_lora
from latentdiff.models.presets import build_unet
from latentdiff.training.frozen import load_text_encoder, load_vae
from latentdiff.training.tasks.text_to_image.text_to_image_config import TextToImageConfig


def load_networks(config: TextToImageConfig) -> Bundle:
    """Build or load the networks, and mark what learns; all of them float32, on the CPU."""
    networks = _of_base(config) if config.base is not None else _from_nothing(config)
    if config.method == "embedding":
        networks = teach(networks, config.embedding)
    _mark(networks, config)
    return networks


def geometry_of(networks: Bundle) -> Geometry:
    """Which pixel sizes the networks take."""
    return of_configs(networks.vae.config, networks.unet.config)


def image_size(networks: Bundle, asked: int | None = None) -> int:
    """Side in pixels of square training images: as asked, or what the U-Net was made for."""
    own = geometry_of(networks).own_size
    if asked is None and own is None:
        raise UserError("the U-Net's config names no sample_size; give --resolution")
    return asked or max(own or (0, 0))


def _of_base(config: TextToImageConfig) -> Bundle:
    assert config.base is not None
    base = bundles.load(config.base)
    if base.repaints:
        raise UserError(
            f"{config.base} is an inpainting model, whose U-Net sees a mask and a picture too; "
            "train on the text-to-image model it was made from"
        )
    return dataclasses.replace(
        base, scheduler_config=config.scheduler_config(base.scheduler_config)
    )


def _from_nothing(config: TextToImageConfig) -> Bundle:
    if config.vae is None or config.clip is None:
        raise UserError(
            "training text-to-image from nothing needs --vae and --clip, exports of `latentdiff "
            "train vae` and `latentdiff train clip`; to fine-tune a model, give --base"
        )
    vae = load_vae(config.vae)
    text_encoder, tokenizer = load_text_encoder(config.clip)
    torch.manual_seed(seeding.integers(2**31, config.train.seed, "initial weights"))
    return Bundle(
        unet=build_unet(config.model),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler_config=config.scheduler_config(),
    )


def _mark(networks: Bundle, config: TextToImageConfig) -> None:
    """Set what requires grad: everything, or the LoRA that is added here, or a word's vectors,
    which do already."""
    trained = networks.text_encoder if config.train_text_encoder else None
    if config.method == "lora":
        add_lora(networks.unet, trained, config.lora, config.train.seed)
    elif config.method == "full":
        networks.unet.requires_grad_(True)
        if trained is not None:
            trained.requires_grad_(True)
    if config.gradient_checkpointing:
        networks.unet.enable_gradient_checkpointing()
        if trained is not None:
            trained.gradient_checkpointing_enable()
