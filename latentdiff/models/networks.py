"""The networks of a model folder, each on its own: built from its config, loaded, saved.

A config is other people's text: before anything is built from it, its numbers are held against
the sizes that the weights beside it have, so that an absurd one costs nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentdiff import deferred
from latentdiff.errors import UserError
from latentdiff.files import write_json
from latentdiff.files.json_file import read_json
from latentdiff.models import model_folder as folders
from latentdiff.models import weights
from latentdiff.models.light import clip_text, unet, vae
from latentdiff.models.light.layers import Light
from latentdiff.models.light.part import Part
from latentdiff.models.model_folder import TEXT_PREFIX
from latentdiff.models.weight_hashes import FileHash

ATTENTION_RENAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the autoencoder's attention in checkpoints from before diffusers 0.15."""
UNSUPPORTED_UNET: dict[str, tuple[str | None, ...]] = {
    # "text" pools the same context into the timestep's embedding; others ask for further inputs.
    "addition_embed_type": (None, "text"),
    "class_embed_type": (None,),
    "encoder_hid_dim_type": (None,),
    "time_cond_proj_dim": (None,),
}
"""Settings of a U-Net by which it needs more inputs than x_t, t and a context, and what may stand
there all the same."""
EMA_KEYS = (
    *("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup"),
    *("inv_gamma", "power"),
)
"""What diffusers' `EMAModel.save_pretrained` leaves in a U-Net's config; no settings of it."""
LARGEST = 2**20
"""The largest whole number that a config may hold: twenty times the longest vocabulary of CLIP."""
_NO_NETWORK = (
    *(ValueError, TypeError, NotImplementedError, IndexError, ZeroDivisionError),
    *(RuntimeError, OverflowError, MemoryError, AttributeError, KeyError),
)
"""What the libraries raise for settings that make no network."""
MOST_BLOCKS = 64
LAYERS = ("layers_per_block", "transformer_layers_per_block", "num_hidden_layers")
UNKNOWN_TO_CLIP = ("model_type", "architectures", "torch_dtype", "dtype", "transformers_version")


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network as read. files: of its weights. notes: what the user should know, a line each."""

    part: Part[Any]
    files: tuple[FileHash, ...]
    notes: tuple[str, ...]

    @property
    def module(self) -> Any:
        """The library's own module."""
        return self.part.own


def load_network(
    folder: Path, part: str, dtype: torch.dtype | None, variant: str | None = None
) -> LoadedNetwork:
    """One network of a model folder, frozen and in eval mode.

    part: "unet", "vae" or "text_encoder". dtype: of its weights; None keeps what is stored.
    variant: which of several sets of weights; where there is none of it, the plain one.
    """
    _, class_name, _ = folders.NETWORKS[part]
    where = folder / "config.json"
    config = read_json(where)
    refuse_code(config, where)
    if part == "text_encoder":
        architectures = config.get("architectures", [class_name])
        named = architectures[0] if isinstance(architectures, list) and architectures else None
    else:
        named = config.get("_class_name", class_name)
    if named != class_name:
        raise UserError(f"{where} is for a {str(named)[:80]}; expected a {class_name}")
    config, notes = _without_ema_keys(part, config, where)
    found = folders.weights_of(folder, part)
    chosen = weights.pick_variant(found, variant)
    if chosen.variant != variant:
        notes = (*notes, _variant_note(folder, found, chosen, variant))
    files = tuple(FileHash(folder / name) for name in weights.shard_names(folder, chosen))
    check_sizes(config, weights.read_shapes(folder, chosen), str(where))
    network = lay_out(part, config, str(where))
    state = today(part, weights.read_weights(folder, chosen), network.light)
    weights.assign(network.light, state, str(folder / chosen.name), dtype)
    network.light.eval().requires_grad_(False)
    return LoadedNetwork(network, files, notes)


def _variant_note(
    folder: Path,
    found: list[weights.WeightFile],
    chosen: weights.WeightFile,
    variant: str | None,
) -> str:
    used = "the plain weights" if chosen.variant is None else f"variant {chosen.variant!r}"
    if variant is not None:
        return f"{folder} has no variant {variant!r}; {used} are used"
    others = list(dict.fromkeys(repr(w.variant) for w in found if w.variant != chosen.variant))
    if others:
        return f"{folder} also holds the variant {', '.join(others)}; {used} is used"
    return f"{folder}: the only weights are {used}, used"


def _without_ema_keys(
    part: str, config: Mapping[str, Any], where: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config without an average's own settings, and a note on them."""
    strays = [key for key in EMA_KEYS if key in config]
    if part != "unet" or not strays:
        return dict(config), ()
    kept = {key: value for key, value in config.items() if key not in strays}
    return kept, (f"{where}: {', '.join(strays)} belong to an averaged copy, left aside",)


def check_sizes(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """UserError for numbers in a config that no network with these weights can have.

    No width is larger than the weights have numbers, there are no more layers than tensors, and
    nothing exceeds `LARGEST`. It takes no memory and no time.
    """
    numbers = sum(math.prod(shape) for shape in shapes.values())
    blocks = config.get("block_out_channels", ())
    for key, value in config.items():
        if isinstance(value, list) and len(value) > MOST_BLOCKS:
            raise UserError(f"{where} gives {len(value):,} values for {key[:80]}; at most 64 occur")
        if key in LAYERS:
            most = len(shapes) // max(1, len(blocks) if isinstance(blocks, list) else 1)
        else:
            most = LARGEST if key.endswith("_id") else min(max(numbers, 1024), LARGEST)
        for number in _numbers(value):
            if not -LARGEST <= number <= most:
                raise UserError(
                    f"{where} sets {key[:80]} to {number:g}, which cannot be: its weights are "
                    f"{len(shapes)} tensors with {numbers:,} numbers"
                )


def _numbers(value: Any, depth: int = 0) -> list[float]:
    """The numbers in a config's value, those of lists of lists too."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value]
    if isinstance(value, list) and depth < 3:
        return [number for entry in value for number in _numbers(entry, depth + 1)]
    return []


def refuse_code(config: Mapping[str, Any], where: Path) -> None:
    """UserError for a config that names code to import."""
    if "auto_map" in config or "custom_pipelines" in config:
        raise UserError(f"{where} asks to import code of its own, which is never done here")


def lay_out(part: str, config: Mapping[str, Any], where: str) -> Part[Any]:
    """A network without weights (on the meta device) from its config; UserError names `where`.

    It has a light form where `models.light` knows its settings; others are the library's own at
    once, which also says what is wrong with settings that make no network.
    """
    check_kind(part, config, where)
    light = None
    with contextlib.suppress(ValueError):  # groups that do not divide the channels
        light = _LAYOUTS[part](config)
    if light is None:
        return Part(build_network(part, config, where))
    return Part(light, functools.partial(_own, part, dict(config), where))


def _own(part: str, config: Mapping[str, Any], where: str, light: Light) -> nn.Module:
    """The library's own module over a light form's weights: the same tensors, not copies, but for
    those that were left in a narrower type."""
    module = build_network(part, config, where)
    kept = today(part, light.state_dict(keep_vars=True), module)
    state = {name: value.to(light.computes_in or value.dtype) for name, value in kept.items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def build_network(part: str, config: Mapping[str, Any], where: str) -> nn.Module:
    """The library's own module without weights, on the meta device; UserError names `where`."""
    check_kind(part, config, where)
    return _BUILDERS[part](config, where)


def check_kind(part: str, config: Mapping[str, Any], where: str) -> None:
    """UserError for a network of a kind that Stable Diffusion 1.x and 2.x do not have."""
    if part == "text_encoder":
        kind = config.get("model_type", "clip_text_model")
        if kind not in ("clip_text_model", "clip"):
            raise UserError(f"{where} is for a {kind}; expected a clip_text_model")
    elif part == "vae" and config.get("shift_factor") is not None:
        raise UserError(
            f"{where} sets shift_factor, which Stable Diffusion's pipeline ignores; "
            "fold it into quant_conv and post_quant_conv"
        )
    elif part == "unet":
        for key, allowed in UNSUPPORTED_UNET.items():
            if config.get(key) not in allowed:
                raise UserError(
                    f"{where} sets {key} ({config[key]!r}), which Stable Diffusion 1.x and 2.x do "
                    "not have; this is a model of another kind"
                )


def _build_diffusers(class_: Any, config: Mapping[str, Any], where: str) -> nn.Module:
    from accelerate import init_empty_weights

    known = set(class_._get_init_keys(class_))
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    strange = sorted(set(settings) - known)
    if strange:
        raise UserError(
            f"{where} has the setting {strange[0][:80]!r}, which {class_.__name__} lacks"
        )
    try:
        with init_empty_weights(include_buffers=False):
            return class_(**settings)
    except _NO_NETWORK as error:
        raise UserError(
            f"{where} describes no {class_.__name__} ({weights.first_line(error)[:200]})"
        ) from error


def _build_unet(config: Mapping[str, Any], where: str) -> nn.Module:
    deferred.defer()
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return _build_diffusers(UNet2DConditionModel, config, where)


def _build_vae(config: Mapping[str, Any], where: str) -> nn.Module:
    deferred.defer()
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return _build_diffusers(AutoencoderKL, config, where)


def _build_text_encoder(config: Mapping[str, Any], where: str) -> nn.Module:
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModel
    from transformers.initialization import no_init_weights

    settings = {
        k: v for k, v in config.items() if k not in UNKNOWN_TO_CLIP and not k.startswith("_")
    }
    try:
        with no_init_weights(), init_empty_weights(include_buffers=False):
            return CLIPTextModel(CLIPTextConfig(**settings))
    except Exception as error:
        raise UserError(
            f"{where} describes no CLIPTextModel ({weights.first_line(error)[:200]})"
        ) from error


_BUILDERS: dict[str, Callable[[Mapping[str, Any], str], nn.Module]] = {
    "unet": _build_unet,
    "vae": _build_vae,
    "text_encoder": _build_text_encoder,
}
_LAYOUTS: dict[str, Callable[[Mapping[str, Any]], Light | None]] = {
    "unet": unet.lay_out,
    "vae": vae.lay_out,
    "text_encoder": clip_text.lay_out,
}


def today(part: str, state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The weights under today's names; only spellings that older writers used are translated."""
    if part == "vae":
        renamed = {}
        for name, tensor in state.items():
            head, _, last = name.rpartition(".")
            block, _, role = head.rpartition(".")
            if ".attentions." in name and role in ATTENTION_RENAMES:
                renamed[f"{block}.{ATTENTION_RENAMES[role]}.{last}"] = tensor
            else:
                renamed[name] = tensor
        return renamed
    if part != "text_encoder":
        return dict(state)
    own_prefix = all(name.startswith(TEXT_PREFIX) for name in module.state_dict())
    renamed = {}
    for name, tensor in state.items():
        bare = name.removeprefix(TEXT_PREFIX)
        if bare != "embeddings.position_ids":
            renamed[TEXT_PREFIX + bare if own_prefix else bare] = tensor
    return renamed


def save_network(
    module: Any,
    part: str,
    folder: Path,
    dtype: torch.dtype | None = None,
    max_shard_size: int | None = None,
) -> None:
    """Write one network's `config.json` and weights into an existing folder."""
    _, class_name, stem = folders.NETWORKS[part]
    state = {name: value.to(dtype or value.dtype) for name, value in module.state_dict().items()}
    assert not any(".lora_A." in name for name in state), f"{part} has peft's layers; merge first"
    if part == "text_encoder":
        state = {TEXT_PREFIX + n.removeprefix(TEXT_PREFIX): v for n, v in state.items()}
        config = module.config.to_diff_dict() | {"architectures": [class_name]}
        # transformers opens a network in the type named here, diffusers its own in float32: opened
        # without a word about types a folder must not mix the two, whatever it is stored in.
        config["dtype"] = "float32"
    else:
        config = json.loads(module.to_json_string())
        config.pop("_name_or_path", None)
    for name, value in state.items():
        if not weights.finite(value):
            raise UserError(f"{part}: {name} holds NaN or infinity in {value.dtype}; not saved")
    write_json(folder / "config.json", config)
    weights.write_weights(folder, stem, state, max_shard_size)
