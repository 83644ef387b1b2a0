"""Names of Stable Diffusion's weights in the original layout (CompVis, Stability), in one file.

Each function turns diffusers' name of a weight into the original one, so that both directions are
one table: what a network expects, by the name under which a file has it. The text encoders keep
CLIP's names (1.x) or OpenCLIP's (2.x), whose attention holds q, k and v in one tensor. diffusers'
own converters (diffusers/loaders/single_file_utils.py) go one way only; tests hold these against
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer.text_model."
OPEN_CLIP = "cond_stage_model.model."

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(
    r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_VAE_BLOCK = re.compile(
    r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def _split(name: str) -> tuple[str, str]:
    module, _, last = name.rpartition(".")
    return module, last


def unet_name(name: str, config: Mapping[str, Any]) -> str | None:
    """A U-Net's weight in the original layout; None for one that has no place there."""
    module, last = _split(name)
    if module in _UNET_ENDS:
        return f"{UNET}{_UNET_ENDS[module]}.{last}"
    layers = config["layers_per_block"]
    if not isinstance(layers, int):
        return None
    middle = _MIDDLE.fullmatch(name)
    if middle is not None:
        kind, layer, rest = middle.groups()
        place = 2 * int(layer) if kind == "resnets" else 1 + 2 * int(layer)
        return _inside(f"{UNET}middle_block.{place}", kind, rest)
    found = _BLOCK.fullmatch(name)
    if found is None:
        return None
    side, block, kind, layer, rest = found.groups()
    index = int(block) * (layers + 1) + int(layer)
    if side == "down":
        if kind == "downsamplers":
            index = (int(block) + 1) * (layers + 1)
            return f"{UNET}input_blocks.{index}.0.{rest.replace('conv.', 'op.')}"
        return _inside(f"{UNET}input_blocks.{index + 1}.{int(kind == 'attentions')}", kind, rest)
    if kind == "upsamplers":
        index = int(block) * (layers + 1) + layers
        attends = "Attn" in config["up_block_types"][int(block)]
        return f"{UNET}output_blocks.{index}.{2 if attends else 1}.{rest}"
    return _inside(f"{UNET}output_blocks.{index}.{int(kind == 'attentions')}", kind, rest)


def _inside(place: str, kind: str, rest: str) -> str | None:
    if kind == "attentions":
        return f"{place}.{rest}"
    module, last = _split(rest)
    return f"{place}.{_RESNET[module]}.{last}" if module in _RESNET else None


def vae_name(name: str, config: Mapping[str, Any]) -> str | None:
    """An autoencoder's weight in the original layout; None for one that has no place there."""
    blocks = len(config["block_out_channels"])
    found = _VAE_BLOCK.fullmatch(name)
    if found is not None:
        side, block, kind, layer, rest = found.groups()
        index = int(block) if side == "encoder" else blocks - 1 - int(block)
        place = f"{VAE}{side}.{'down' if side == 'encoder' else 'up'}.{index}"
        if kind == "resnets":
            return f"{place}.block.{layer}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
        return f"{place}.{'downsample' if kind == 'downsamplers' else 'upsample'}.{rest}"
    middle = _VAE_MIDDLE.fullmatch(name)
    if middle is not None:
        side, kind, layer, rest = middle.groups()
        if kind == "resnets":
            return f"{VAE}{side}.mid.block_{int(layer) + 1}.{rest}"
        module, last = _split(rest)
        return f"{VAE}{side}.mid.attn_1.{_VAE_ATTENTION[module]}.{last}"
    if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")):
        return VAE + name.replace("conv_norm_out", "norm_out")
    return None


def clip_name(name: str, config: Mapping[str, Any]) -> str | None:
    """A CLIP text encoder's weight as Stable Diffusion 1.x has it."""
    return CLIP + name.removeprefix("text_model.")


NAMES: dict[str, Callable[[str, Mapping[str, Any]], str | None]] = {
    "unet": unet_name,
    "vae": vae_name,
    "text_encoder": clip_name,
}


def square(tensor: Tensor, name: str) -> Tensor:
    """A projection of the autoencoder's attention as the 1x1 convolution that it was."""
    if ".mid.attn_1." in name and tensor.ndim == 2:
        return tensor[:, :, None, None]
    return tensor


def flat(tensor: Tensor, name: str) -> Tensor:
    """The inverse of `square`; some files have three dimensions."""
    if ".mid.attn_1." in name and tensor.ndim > 2:
        return tensor.flatten(1)
    return tensor


def ema_name(name: str) -> str:
    """Under which a U-Net's averaged weight stands: no dots after the first word."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def from_open_clip(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The first `layers` layers of OpenCLIP's text tower under transformers' names, without a
    prefix. KeyError for a weight that is missing."""
    found = {ours: state[OPEN_CLIP + theirs] for ours, theirs in _OPEN_CLIP_ENDS.items()}
    for layer in range(layers):
        here, there = f"encoder.layers.{layer}.", f"{OPEN_CLIP}transformer.resblocks.{layer}."
        for ours, theirs in _OPEN_CLIP_LAYER.items():
            for last in ("weight", "bias"):
                found[f"{here}{ours}.{last}"] = state[f"{there}{theirs}.{last}"]
        for last in ("weight", "bias"):
            parts = state[f"{there}attn.in_proj_{last}"].chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                found[f"{here}self_attn.{name}_proj.{last}"] = part
    return found


def to_open_clip(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The inverse of `from_open_clip`; state has no prefix."""
    found = {OPEN_CLIP + theirs: state[ours] for ours, theirs in _OPEN_CLIP_ENDS.items()}
    for layer in range(layers):
        here, there = f"encoder.layers.{layer}.", f"{OPEN_CLIP}transformer.resblocks.{layer}."
        for ours, theirs in _OPEN_CLIP_LAYER.items():
            for last in ("weight", "bias"):
                found[f"{there}{theirs}.{last}"] = state[f"{here}{ours}.{last}"]
        for last in ("weight", "bias"):
            parts = [state[f"{here}self_attn.{name}_proj.{last}"] for name in "qkv"]
            found[f"{there}attn.in_proj_{last}"] = torch.cat(parts)
    return found


def count(names: Iterable[str], pattern: str) -> int:
    """How many different numbers the first group of a pattern takes among names."""
    expression = re.compile(pattern)
    return len({m[1] for name in names if (m := expression.match(name))})
