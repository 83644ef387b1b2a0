"""What a single file holds, told from its header alone: its kind, and its networks' settings.

The settings of Stable Diffusion 1.x and 2.x come with this package; widths, depths and channels
are read from the shapes of the weights. Files that `latentdiff convert` writes carry their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from latentdiff.errors import UserError
from latentdiff.files.json_file import parse_json
from latentdiff.models.single_files.original_names import CLIP, OPEN_CLIP, UNET, VAE, count

HEADER = "latentdiff.single_file"
"""Header key under which our own files keep their networks' settings, as JSON."""
CLIP_BARE = "cond_stage_model.transformer."
"""The prefix of CLIP's weights in files that transformers' newer names went into."""
Shapes = Mapping[str, tuple[int, ...]]

OTHER_KINDS = {
    r"^conditioner\.embedders\.": "a Stable Diffusion XL checkpoint",
    r"(^|\.)double_blocks\.|(^|\.)single_transformer_blocks\.": "a Flux checkpoint",
    r"(^|\.)joint_blocks\.": "a Stable Diffusion 3 checkpoint",
    r"\.(lora_(up|down|A|B)|hada_w1_a|lokr_w1(_a)?)(\.|$)": "a LoRA; give it by --lora",
    r"^control_model\.|^controlnet_": "a ControlNet",
    r"motion_modules\.": "an AnimateDiff motion module",
    r"^(emb_params|string_to_param)|^<.+>$": "a learned word; give it by --embedding",
    r"^(encoder|decoder)\.(conv_in|mid\.|mid_block\.)": "an autoencoder alone; give it by --vae",
    r"^(down_blocks|mid_block)\.": "a part of a folder in diffusers format; name the whole folder",
    r"^text_model\.": "a text encoder alone",
    r"^model\.diffusion_model\.(transformer_blocks|blocks)\.": "a transformer's checkpoint",
}


def kind_of(shapes: Shapes, path: Path) -> str:
    """ "1" or "2", the generation of Stable Diffusion; UserError that names any other kind."""
    if f"{UNET}input_blocks.0.0.weight" not in shapes or _first(shapes, r"^conditioner\."):
        for pattern, kind in OTHER_KINDS.items():
            if _first(shapes, pattern):
                raise UserError(f"{path} is {kind}; Stable Diffusion 1.x and 2.x are drawn here")
        first = next(iter(sorted(shapes)), "none")[:80]
        raise UserError(
            f"{path} is no Stable Diffusion 1.x or 2.x checkpoint; its first tensor is {first!r}"
        )
    channels = shapes[f"{UNET}input_blocks.0.0.weight"][1:2]
    if channels in ((9,), (8,)):
        use = "inpainting" if channels == (9,) else "editing by instruction"
        raise UserError(f"{path} is a checkpoint for {use} ({channels[0]} channels in)")
    if _first(shapes, rf"^{re.escape(UNET)}label_emb\."):
        raise UserError(f"{path} is a checkpoint that asks for more than a text (label_emb)")
    if f"{OPEN_CLIP}token_embedding.weight" in shapes:
        return "2"
    if _first(shapes, r"^cond_stage_model\.transformer\."):
        return "1"
    raise UserError(f"{path} holds no text encoder; ask for a checkpoint with one inside")


def _first(shapes: Shapes, pattern: str) -> str | None:
    return next((name for name in shapes if re.search(pattern, name)), None)


def configs_of(kind: str, shapes: Shapes, header: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Settings of "unet", "vae" (None where there is none inside), "text_encoder" and "scheduler";
    perhaps "tokenizer". UserError for shapes that no such model has."""
    if HEADER in header:
        told = parse_json(header[HEADER], f"{path}: its header")
        if not isinstance(told, dict) or not {"unet", "text_encoder", "scheduler"} <= set(told):
            raise UserError(f"{path}: its header's settings cannot be read; remove {HEADER!r}")
        return told
    base = base_settings(kind)
    try:
        return {
            **base,
            "unet": base["unet"] | _unet(kind, shapes),
            "vae": base["vae"] | _vae(shapes) if _first(shapes, rf"^{VAE}decoder") else None,
            "text_encoder": base["text_encoder"] | _text(kind, shapes),
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path} lacks weights of Stable Diffusion {kind}.x ({error})") from error


def base_settings(kind: str) -> dict[str, Any]:
    """The settings that all models of a generation share."""
    place = resources.files("latentdiff") / "assets" / "clip" / "stable_diffusion.json"
    base: dict[str, Any] = json.loads(place.read_text("utf-8"))[kind]
    return base


def vae_settings(shapes: Shapes, path: Path) -> dict[str, Any]:
    """An autoencoder's settings from its weights' shapes, by their original names."""
    try:
        return {**base_settings("1")["vae"], **_vae(shapes)}
    except (KeyError, IndexError) as error:
        raise UserError(f"{path} lacks weights of an autoencoder ({error})") from error


def _unet(kind: str, shapes: Shapes) -> dict[str, Any]:
    inside = f"{UNET}input_blocks."
    places = count(shapes, rf"{re.escape(inside)}(\d+)\.")
    downs = [i for i in range(places) if f"{inside}{i}.0.op.weight" in shapes]
    layers = downs[0] - 1 if downs else places - 1
    starts = [1 + level * (layers + 1) for level in range(len(downs) + 1)]
    widths = [shapes[f"{inside}{i}.0.out_layers.3.weight"][0] for i in starts]
    attends = [f"{inside}{i}.1.proj_in.weight" in shapes for i in starts]
    first = f"{inside}{starts[attends.index(True)]}.1."
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)]
    return {
        "in_channels": shapes[f"{inside}0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": down,
        "up_block_types": up,
        "cross_attention_dim": shapes[f"{first}transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": len(shapes[f"{first}proj_in.weight"]) == 2,
        **({"attention_head_dim": [max(1, w // 64) for w in widths]} if kind == "2" else {}),
    }


def _vae(shapes: Shapes) -> dict[str, Any]:
    levels = count(shapes, rf"{VAE}encoder\.down\.(\d+)\.")
    widths = [shapes[f"{VAE}encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    return {
        "block_out_channels": widths,
        "layers_per_block": count(shapes, rf"{VAE}encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": shapes[f"{VAE}post_quant_conv.weight"][0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _text(kind: str, shapes: Shapes) -> dict[str, Any]:
    if kind == "2":
        tokens = shapes[f"{OPEN_CLIP}token_embedding.weight"]
        layers = count(shapes, rf"{OPEN_CLIP}transformer\.resblocks\.(\d+)\.")
        # Stable Diffusion 2.x takes the last layer but one; a whole tower has its projection.
        layers -= f"{OPEN_CLIP}text_projection" in shapes
        inner = shapes[f"{OPEN_CLIP}transformer.resblocks.0.mlp.c_fc.weight"][0]
        positions = shapes[f"{OPEN_CLIP}positional_embedding"][0]
    else:
        start = CLIP if _first(shapes, rf"^{re.escape(CLIP)}") else CLIP_BARE
        tokens = shapes[f"{start}embeddings.token_embedding.weight"]
        layers = count(shapes, rf"{re.escape(start)}encoder\.layers\.(\d+)\.")
        inner = shapes[f"{start}encoder.layers.0.mlp.fc1.weight"][0]
        positions = shapes[f"{start}embeddings.position_embedding.weight"][0]
    return {
        "vocab_size": tokens[0],
        "hidden_size": tokens[1],
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": max(1, tokens[1] // 64),
        "max_position_embeddings": positions,
    }
