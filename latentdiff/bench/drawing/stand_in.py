"""A stand-in of Stable Diffusion 1.5's shape, its weights random: as slow and as large.

It takes nothing from a network, and draws nothing worth seeing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentdiff.checkpoints.tensor_file import write_tensors
from latentdiff.files import publish_folder, write_json
from latentdiff.models import bundle as bundles
from latentdiff.models.model_folder import NETWORKS, TEXT_PREFIX
from latentdiff.models.networks import build_network
from latentdiff.models.single_files.single_file import clip_tokenizer
from latentdiff.models.single_files.single_file_config import base_settings

SPREAD = 0.02
"""Standard deviation of the weights: samples keep their size through layers of these widths."""
WIDTHS = [320, 640, 1280, 1280]
SETTINGS: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": WIDTHS,
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "cross_attention_dim": 768,
        "use_linear_projection": False,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
    },
}


def write_stand_in(folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the folder: 4.3 GB in float32, half of it in float16; returns it."""
    base = base_settings("1")
    with publish_folder(folder, manifest=False) as place:
        for part, (_, class_name, stem) in NETWORKS.items():
            config = {**base[part], **SETTINGS[part]}
            module = build_network(part, config, f"the stand-in's {part}")
            (place / part).mkdir()
            named: dict[str, Any] = {"_class_name": class_name}
            if part == "text_encoder":
                named = {"architectures": [class_name], "model_type": "clip_text_model"}
            write_json(place / part / "config.json", {**named, **config})
            prefix = TEXT_PREFIX if part == "text_encoder" else ""
            state = {
                prefix + name.removeprefix(prefix): tensor
                for name, tensor in _random(module, dtype).items()
            }
            write_tensors(place / part / f"{stem}.safetensors", state, {"format": "pt"})
        bundles.save_tokenizer(clip_tokenizer("1").own, place / "tokenizer")
        write_json(place / "scheduler" / "scheduler_config.json", base["scheduler"])
        write_json(place / "model_index.json", bundles.model_index("PNDMScheduler"))
    return Path(folder)


def _random(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights of a module that has none: windows into one pool of normal numbers."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    largest = max(int(torch.Size(shape).numel()) for shape in shapes.values())
    draw = torch.Generator().manual_seed(0)
    pool = torch.randn(largest + len(shapes), generator=draw).mul_(SPREAD).to(dtype)
    one, nothing = torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype)
    state = {}
    for offset, (name, shape) in enumerate(shapes.items()):
        if name.endswith(".bias"):
            state[name] = nothing.expand(shape)
        elif len(shape) == 1:  # of a normalisation
            state[name] = one.expand(shape)
        else:
            state[name] = pool[offset : offset + torch.Size(shape).numel()].view(shape)
    return state
