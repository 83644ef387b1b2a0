"""What a run leaves for `generate`, and how another run starts from it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models import learned_word
from latentdiff.models.lora import layers as lora
from latentdiff.training.feeds.feed import Feed
from latentdiff.training.frozen import copy_weights
from latentdiff.training.tasks.text_to_image.module import UNetModule
from latentdiff.training.tasks.text_to_image.text_to_image_config import TextToImageConfig


def how_to_load(config: TextToImageConfig, export: Path) -> list[str]:
    """Options of `latentdiff generate` that draw with an export."""
    if config.method == "lora":
        return ["--model", str(config.base), "--lora", str(export)]
    if config.method == "embedding":
        word = export / config.embedding.file_name
        return ["--model", str(config.base), "--embedding", str(word)]
    return ["--model", str(export)]


def save_model(whole: bundles.Bundle, folder: Path, *, words: Sequence[str]) -> None:
    """Write a model folder, float32; `words` of the captions join the card's vocabulary."""
    card = dict(whole.card)
    if "vocabulary" in card:
        card["vocabulary"] = sorted({*card["vocabulary"], *words})
    whole = replace(
        whole, unet=_plain(whole.unet), text_encoder=_plain(whole.text_encoder), card=card
    )
    bundles.save(whole, folder / "model")
    for part in sorted((folder / "model").iterdir()):
        part.rename(folder / part.name)
    (folder / "model").rmdir()


def _plain(network: Any) -> Any:
    """A float32 copy in the usual memory layout."""
    return copy.deepcopy(network).float().to(memory_format=torch.contiguous_format)


def metadata_of(
    config: TextToImageConfig, networks: bundles.Bundle, feed: Feed
) -> lora.LoraMetadata:
    """What a LoRA or a word was made from."""
    words = (word.strip() for word in config.words_of_captions.trigger_words.split(","))
    return lora.LoraMetadata(
        base=Path(str(config.base)).name,
        base_sha256=dict(networks.hashes),
        data_fingerprint=feed.fingerprint,
        trigger_words=tuple(word for word in words if word),
        training_prompt=next(iter(feed.prompts()), ""),
    )


def initialise(module: UNetModule, config: TextToImageConfig, folder: Path) -> None:
    """Starting weights from what this module's functions wrote; strict."""
    if config.method == "embedding":
        assert module.text_encoder is not None
        learned_word.initialise_word(folder, module.text_encoder, config.embedding)
        return
    if config.method == "lora":
        lora.initialise_lora(folder, module.unet, module.text_encoder)
        return
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    _copy(place, "unet", module.unet)
    if module.text_encoder is not None:
        if not (folder / "text_encoder").is_dir():
            raise UserError(f"{folder} holds no text_encoder/ to start from")
        _copy(folder / "text_encoder", "text_encoder", module.text_encoder)


def _copy(place: Path, part: str, target: nn.Module) -> None:
    network = bundles.load_network(place, part, torch.float32).module
    copy_weights(network, target, str(place))
