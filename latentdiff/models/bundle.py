"""All parts of a text-to-image model: loaded strictly, saved so that diffusers opens them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentdiff.errors import UserError
from latentdiff.files import publish_folder, write_json, write_text
from latentdiff.models import model_folder as folders
from latentdiff.models import weights
from latentdiff.models.model_folder import TEXT_PREFIX
from latentdiff.models.preview import STABLE_DIFFUSION_1, Preview
from latentdiff.schedulers.scheduler_config import (
    CONFIG_NAME,
    SchedulerConfig,
    read_config,
    write_config,
)

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

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


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A whole model.

    source: where it was loaded from (a folder), or "" for one made in memory. hashes: part ->
    SHA-256 of its weight file, as `sha256sum` prints it (of the list of the shards' sums if there
    are several); empty for one made in memory. card: the content of `snowglobe.json`, for models
    that carry one. notes: what the user should know about what was not loaded.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: SchedulerConfig
    source: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fit(self)

    @property
    def preview(self) -> Preview | None:
        """The latent-to-RGB matrix: the model's own, Stable Diffusion's for its kind, or none."""
        channels = int(self.vae.config.latent_channels)
        if "preview" in self.card:
            return Preview.from_json(self.card["preview"], channels)
        same = channels == 4 and abs(float(self.vae.config.scaling_factor) - 0.18215) < 1e-4
        return STABLE_DIFFUSION_1 if same else None


def load(
    name: str | Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    variant: str | None = None,
) -> Bundle:
    """Load a Stable Diffusion 1.x / 2.x model in diffusers format, frozen and in eval mode.

    name: "snowglobe", a folder, or a hub id (a local folder never touches the network).
    dtype: of all networks; None keeps what is stored. variant: which of several sets of weights,
    such as "fp16"; by default the plain one, or the only one there is.
    Raises UserError, one line, for anything missing, unexpected, damaged or of another kind.
    """
    folder = folders.resolve(name, variant=variant)
    layout = folders.read_layout(folder)
    notes = list(layout.notes)
    networks: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    for part in folders.NETWORKS:
        networks[part], hashes[part], used = load_network(folder / part, part, dtype, variant)
        networks[part].to(device)
        if used != variant:
            notes.append(f"{folder / part}: the only weights are variant {used!r}, used")
    bundle = Bundle(
        **networks,
        tokenizer=load_tokenizer(folder / "tokenizer", networks["text_encoder"]),
        scheduler_config=load_scheduler_config(folder, layout.scheduler_class),
        source=str(folder),
        hashes=hashes,
        card=weights.read_json(folder / folders.CARD) if (folder / folders.CARD).exists() else {},
        notes=tuple(notes),
    )
    assert bundle.preview is None or bundle.preview.matrix
    return bundle


def load_network(
    folder: Path, part: str, dtype: torch.dtype | None, variant: str | None = None
) -> tuple[nn.Module, str, str | None]:
    """One network of a model folder: the module, its weights' hash, the variant that was used.

    part: "unet", "vae" or "text_encoder".
    """
    _, class_name, stem = folders.NETWORKS[part]
    config = weights.read_json(folder / "config.json")
    _refuse_code(config, folder / "config.json")
    if part == "text_encoder":
        architectures = config.get("architectures", [class_name])
        named = architectures[0] if isinstance(architectures, list) and architectures else None
    else:
        named = config.get("_class_name", class_name)
    if named != class_name:
        raise UserError(f"{folder / 'config.json'} is for a {named}; expected a {class_name}")
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    found = weights.find_weights(names, stem, str(folder))
    chosen = weights.pick_variant(found, variant, str(folder))
    state = weights.read_weights(folder, chosen)
    module = _BUILDERS[part](config, str(folder / "config.json"))
    weights.assign(module, _renamed(part, state, module), str(folder / chosen.name), dtype)
    module.eval().requires_grad_(False)
    return module, weights.hash_weights(folder, chosen), chosen.variant


def _refuse_code(config: Mapping[str, Any], where: Path) -> None:
    if "auto_map" in config or "custom_pipelines" in config:
        raise UserError(f"{where} asks to import code of its own, which is never done here")


def _build_diffusers(class_: Any, config: Mapping[str, Any], where: str) -> nn.Module:
    """An instance without weights (on the meta device) from a diffusers config."""
    from accelerate import init_empty_weights

    known = set(class_._get_init_keys(class_))
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    strange = sorted(set(settings) - known)
    if strange:
        raise UserError(f"{where} has the setting {strange[0]!r}, which {class_.__name__} lacks")
    try:
        with init_empty_weights(include_buffers=False):
            return class_(**settings)
    except (ValueError, TypeError, NotImplementedError, IndexError, ZeroDivisionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} describes no {class_.__name__} ({reason})") from error


def _build_unet(config: Mapping[str, Any], where: str) -> nn.Module:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    for key, allowed in UNSUPPORTED_UNET.items():
        if config.get(key) not in allowed:
            raise UserError(
                f"{where} sets {key} ({config[key]!r}), which Stable Diffusion 1.x and 2.x do not "
                "have; this is a model of another kind"
            )
    return _build_diffusers(UNet2DConditionModel, config, where)


def _build_vae(config: Mapping[str, Any], where: str) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    if config.get("shift_factor") is not None:
        raise UserError(
            f"{where} sets shift_factor, which Stable Diffusion's pipeline ignores; "
            "fold it into quant_conv and post_quant_conv"
        )
    return _build_diffusers(AutoencoderKL, config, where)


def _build_text_encoder(config: Mapping[str, Any], where: str) -> nn.Module:
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModel

    kind = config.get("model_type", "clip_text_model")
    if kind not in ("clip_text_model", "clip"):
        raise UserError(f"{where} is for a {kind}; expected a clip_text_model")
    skip = ("model_type", "architectures", "torch_dtype", "dtype", "transformers_version")
    settings = {k: v for k, v in config.items() if k not in skip and not k.startswith("_")}
    try:
        with init_empty_weights(include_buffers=False):
            return CLIPTextModel(CLIPTextConfig(**settings))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} describes no CLIPTextModel ({reason})") from error


_BUILDERS: dict[str, Callable[[Mapping[str, Any], str], nn.Module]] = {
    "unet": _build_unet,
    "vae": _build_vae,
    "text_encoder": _build_text_encoder,
}


def _renamed(part: str, state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
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


def load_tokenizer(folder: Path, text_encoder: CLIPTextModel) -> CLIPTokenizer:
    """The tokenizer of a model folder; its length limit is the text encoder's if it names none."""
    from transformers import CLIPTokenizer

    whole = (folder / "tokenizer.json").is_file()
    pair = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not whole and not pair:
        raise UserError(f"{folder} holds no tokenizer; expected vocab.json and merges.txt")
    for file in folder.glob("*.json"):
        _refuse_code(weights.read_json(file), file)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder} holds no CLIP tokenizer that can be read ({reason})") from error
    positions = int(text_encoder.config.max_position_embeddings)
    if tokenizer.model_max_length > 10**9:
        tokenizer.model_max_length = positions
    return tokenizer


def load_scheduler_config(folder: Path, class_name: str) -> SchedulerConfig:
    """The scheduler's settings; what a folder leaves unsaid is read as its own pipeline reads it.

    diffusers' Stable Diffusion pipeline takes a missing `steps_offset` as 1 and a missing
    `clip_sample` as off; what is said is kept.
    """
    raw = weights.read_json(folder / "scheduler" / CONFIG_NAME)
    _refuse_code(raw, folder / "scheduler" / CONFIG_NAME)
    written = raw.get("_class_name", class_name)
    if written != class_name:
        raise UserError(
            f"{folder}: model_index.json names a {class_name}, its scheduler folder a {written}"
        )
    unsaid = {"steps_offset": 1, "clip_sample": False}
    return read_config({**unsaid, **raw, "_class_name": class_name})


def check_fit(bundle: Bundle) -> None:
    """UserError unless the parts fit together."""
    unet, vae, text = bundle.unet.config, bundle.vae.config, bundle.text_encoder.config
    channels = int(vae.latent_channels)
    if unet.in_channels != channels or unet.out_channels != channels:
        raise UserError(
            f"the U-Net takes {unet.in_channels} and gives {unet.out_channels} channels, the "
            f"autoencoder's latents have {channels}: no text-to-image model (perhaps inpainting)"
        )
    if unet.cross_attention_dim != text.hidden_size:
        raise UserError(
            f"the U-Net attends to contexts {unet.cross_attention_dim} wide, "
            f"the text encoder gives {text.hidden_size}"
        )
    if len(bundle.tokenizer) > text.vocab_size:
        raise UserError(
            f"the tokenizer has {len(bundle.tokenizer)} tokens, "
            f"the text encoder knows {text.vocab_size}"
        )
    if bundle.tokenizer.model_max_length > text.max_position_embeddings:
        raise UserError(
            f"the tokenizer allows {bundle.tokenizer.model_max_length} tokens, "
            f"the text encoder {text.max_position_embeddings}"
        )


def save(
    bundle: Bundle,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_size: int | None = None,
) -> Path:
    """Write a folder that `diffusers.StableDiffusionPipeline.from_pretrained` opens; returns it.

    dtype: of the saved weights, as they are when None. max_shard_size: bytes a weight file may
    have before it is split. The folder appears whole or not at all; one of that name is replaced.
    """
    with publish_folder(folder, manifest=False) as place:
        for part in folders.NETWORKS:
            (place / part).mkdir()
            save_network(getattr(bundle, part), part, place / part, dtype, max_shard_size)
        save_tokenizer(bundle.tokenizer, place / "tokenizer")
        scheduler = write_config(bundle.scheduler_config)
        write_json(place / "scheduler" / CONFIG_NAME, scheduler)
        write_json(place / "model_index.json", _model_index(scheduler["_class_name"]))
        if bundle.card:
            write_json(place / folders.CARD, dict(bundle.card))
    return Path(folder)


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
        config["dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
    else:
        config = json.loads(module.to_json_string())
        config.pop("_name_or_path", None)
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{part}: {name} holds NaN or infinity in {value.dtype}; not saved")
    write_json(folder / "config.json", config)
    weights.write_weights(folder, stem, state, max_shard_size)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a tokenizer in CLIP's old format (vocab.json, merges.txt) and in the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    write_text(folder / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *pairs]) + "\n")
    special = {
        f"{name}_token": getattr(tokenizer, f"{name}_token")
        for name in ("bos", "eos", "unk", "pad")
    }
    write_json(folder / "special_tokens_map.json", special)


def _model_index(scheduler_class: str) -> dict[str, Any]:
    parts = {name: [library, kind] for name, (library, kind, _) in folders.NETWORKS.items()}
    absent = {name: [None, None] for name in (*folders.NOT_LOADED, *folders.IGNORED)}
    return {
        "_class_name": folders.PIPELINE_CLASS,
        "_diffusers_version": version("diffusers"),
        "requires_safety_checker": False,
        **parts,
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", scheduler_class],
        **absent,
    }
