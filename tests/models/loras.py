"""LoRAs for tests: on copies of the tiny models, with a B that matters."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch

from latentdiff.models.bundle import Bundle
from latentdiff.models.lora.layers import LoraConfig, LoraMetadata, add_lora, lora_state, save_lora


def copy_of(bundle: Bundle) -> Bundle:
    """The same model in memory of its own, where a LoRA may change it."""
    return dataclasses.replace(
        bundle,
        unet=copy.deepcopy(bundle.unet),
        text_encoder=copy.deepcopy(bundle.text_encoder),
    )


def trained(
    bundle: Bundle,
    *,
    strength: float = 0.1,
    seed: int = 0,
    text_encoder: bool = True,
    **settings: Any,
) -> Bundle:
    """A copy with a LoRA that has learnt something: B is drawn instead of zero."""
    adapted = copy_of(bundle)
    config = LoraConfig(**({"rank": 4, "alpha": 6.0} | settings))
    add_lora(adapted.unet, adapted.text_encoder if text_encoder else None, config, seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for network in (adapted.unet, adapted.text_encoder):
            for name, parameter in lora_state(network).items():
                if ".lora_B." in name:
                    parameter.normal_(0, strength, generator=draw)
    return adapted


def saved(bundle: Bundle, folder: Path, **told: Any) -> tuple[Path, Path]:
    """Files of an adapted bundle: in diffusers' layout, in kohya's."""
    return save_lora(folder, bundle.unet, bundle.text_encoder, LoraMetadata(**told))
