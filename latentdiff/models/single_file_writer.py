"""Single-file checkpoints: a model written as one file in the original layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentdiff.checkpoints.tensor_file import file_size, write_tensors
from latentdiff.errors import UserError
from latentdiff.files import atomic_path
from latentdiff.models import weights
from latentdiff.models.light.tokenizer import MARKS
from latentdiff.models.networks import TEXT_PREFIX
from latentdiff.models.single_files import original_names as original
from latentdiff.models.single_files.single_file import (
    PREDICTION_HEADER,
    clip_tokenizer,
    clip_vocabulary,
)
from latentdiff.models.single_files.single_file_config import HEADER
from latentdiff.schedulers.scheduler_config import write_config

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from latentdiff.models.bundle import Bundle


def _told_tokenizer(tokenizer: CLIPTokenizer) -> dict[str, Any] | None:
    """A tokenizer's content for the header; None for CLIP's own, which needs none."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    settings: dict[str, Any] = {name: getattr(tokenizer, name) for name in MARKS}
    settings["model_max_length"] = int(tokenizer.model_max_length)
    if model["vocab"] == clip_vocabulary()[0]:
        for kind in ("1", "2"):
            own = clip_tokenizer(kind).light
            if all(getattr(own, name) == value for name, value in settings.items()):
                return None
    merges = [m.split(" ") if isinstance(m, str) else list(m) for m in model["merges"]]
    return {"vocab": model["vocab"], "merges": merges, "settings": settings}


def write_single_file(bundle: Bundle, path: Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write a model as one file in the original layout; returns the path.

    dtype: of the weights, each as it is when None. Other programs read it by its names; its header
    keeps the settings for reading it here without a guess. UserError for a network that has no
    place in that layout.
    """
    tensors: dict[str, Tensor] = {}
    for part in ("unet", "vae"):
        network = getattr(bundle, part)
        for name, tensor in network.state_dict().items():
            there = original.NAMES[part](name, network.config)
            if there is None:
                raise UserError(
                    f"this model's {part} has no place in the original layout ({name}); "
                    "it stays a folder"
                )
            tensors[there] = original.square(tensor, there)
    text = bundle.text_encoder
    bare = {name.removeprefix(TEXT_PREFIX): tensor for name, tensor in text.state_dict().items()}
    open_clip = text.config.hidden_act == "gelu"
    if open_clip:
        tensors |= original.to_open_clip(bare, int(text.config.num_hidden_layers))
    else:
        tensors |= {original.clip_name(name, {}) or "": tensor for name, tensor in bare.items()}
    tensors = {name: tensor.to(dtype or tensor.dtype) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if not weights.finite(tensor):
            raise UserError(f"{name} holds NaN or infinity in {tensor.dtype}; not written")
    scheduler = write_config(bundle.scheduler_config)
    configs: dict[str, Any] = {
        "unet": _settings(bundle.unet),
        "vae": _settings(bundle.vae),
        "text_encoder": bundle.text_encoder.config.to_diff_dict(),
        "scheduler": scheduler,
    }
    tokenizer = _told_tokenizer(bundle.tokenizer)
    if tokenizer is not None:
        configs["tokenizer"] = tokenizer
    if bundle.card:
        configs["card"] = dict(bundle.card)
    predicted = scheduler.get("prediction_type", "epsilon")
    header = {
        "format": "pt",
        HEADER: json.dumps(configs, sort_keys=True),
        PREDICTION_HEADER: "v" if predicted == "v_prediction" else str(predicted),
        "modelspec.architecture": f"stable-diffusion-v{2 if open_clip else 1}",
    }
    with atomic_path(path, size=file_size(tensors, header)) as temporary:
        write_tensors(temporary, tensors, header)
    return path


def _settings(network: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(network.to_json_string())
    return {key: value for key, value in content.items() if not key.startswith("_")}
