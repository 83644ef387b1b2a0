"""All parts of a text-to-image model: loaded strictly, saved so that diffusers opens them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latentdiff.diffusion.prediction_types import Prediction
from latentdiff.errors import UserError
from latentdiff.files import publish_folder, write_json, write_text
from latentdiff.files.json_file import read_json
from latentdiff.models import model_folder as folders
from latentdiff.models.networks import load_network, refuse_code, save_network
from latentdiff.models.preview import STABLE_DIFFUSION_1, Preview
from latentdiff.models.single_files.single_file import UNSAID, read_single_file
from latentdiff.models.single_files.vae_file import load_vae
from latentdiff.models.weight_hashes import FileHash, Hashes, sum_of
from latentdiff.progress import stage
from latentdiff.schedulers.scheduler_config import (
    CONFIG_NAME,
    SchedulerConfig,
    for_stable_diffusion,
    read_config,
    write_config,
)

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer


VOCABULARIES = ("tokenizer.json", "vocab.json")
"""Files of a tokenizer that are all words: megabytes, in which nobody looks for code."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A whole model.

    source: where it was loaded from (a folder), or "" for one made in memory. hashes: part ->
    SHA-256 of its weight file, as `sha256sum` prints it (of the list of the shards' sums if there
    are several), made when it is asked for; empty for one made in memory. card: the content of
    `snowglobe.json`, for models that carry one. notes: what the user should know about what was
    not loaded. variant, vae_source, said_prediction: which set of weights was asked for, whose
    autoencoder stands in, and what the U-Net was said to predict, each as it was named.
    embeddings: file, sha256 and token of each learned word.
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
    variant: str = ""
    vae_source: str = ""
    said_prediction: str = ""
    embeddings: tuple[Mapping[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_fit(self)

    @functools.cached_property
    def settings_sha256(self) -> dict[str, str]:
        """Part -> SHA-256 of its settings as they were read: what weights' hashes leave out, such
        as an activation, a noise schedule or a tokenizer's words."""
        written: dict[str, Any] = {
            part: getattr(self, part).config for part in ("unet", "vae", "text_encoder")
        }
        written["text_encoder"] = written["text_encoder"].to_dict()
        written["scheduler"] = vars(self.scheduler_config)
        told = {part: _canonical(values) for part, values in written.items()}
        told["tokenizer"] = self.tokenizer.backend_tokenizer.to_str()
        return {part: hashlib.sha256(text.encode()).hexdigest() for part, text in told.items()}

    @property
    def repaints(self) -> bool:
        """Whether the U-Net sees x_t, a mask and a picture's latents: an inpainting checkpoint."""
        return int(self.unet.config.in_channels) != int(self.vae.config.latent_channels)

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
    vae: str | Path | None = None,
    prediction_type: Prediction | None = None,
) -> Bundle:
    """Load a Stable Diffusion 1.x / 2.x model, frozen and in eval mode.

    name: "snowglobe", a folder in diffusers format, a single .safetensors file in the original
    layout, or a hub id (what is local never touches the network). dtype: of all networks; None
    keeps what is stored. variant: which of several sets of weights, such as "fp16", by default the
    plain one, or the most exact there is; "ema" for the averaged ones in a single file. vae: a
    file or a folder whose autoencoder stands in for the model's own. prediction_type: what the
    U-Net predicts, where the model says it wrongly or not at all.
    Raises UserError, one line, for anything missing, unexpected, damaged or of another kind.
    """
    with stage(f"loading {name}"):
        located = folders.resolve(name, variant=variant)
        if located.path.is_file():
            bundle = _load_file(located.path, dtype, device, variant, vae)
        else:
            bundle = _load_folder(located.path, dtype, device, variant, vae)
    assert bundle.preview is None or bundle.preview.matrix
    bundle = dataclasses.replace(
        bundle,
        notes=(*located.notes, *bundle.notes),
        variant=variant or "",
        vae_source="" if vae is None else str(vae),
        said_prediction=prediction_type or "",
    )
    if prediction_type is None:
        return bundle
    return dataclasses.replace(
        bundle,
        notes=tuple(note for note in bundle.notes if UNSAID not in note),
        scheduler_config=dataclasses.replace(
            bundle.scheduler_config, prediction_type=prediction_type
        ),
    )


def _load_file(
    path: Path,
    dtype: torch.dtype | None,
    device: torch.device | str,
    variant: str | None,
    vae: str | Path | None,
) -> Bundle:
    """A single file in the original layout."""
    if variant not in (None, "ema"):
        raise UserError(f"{path} has no variant {variant!r} of its weights; a file may have 'ema'")
    file = read_single_file(path, dtype, ema=variant == "ema", with_vae=vae is None)
    other = None if vae is None else load_vae(vae, dtype)
    if file.vae is None and other is None:
        raise UserError(f"{path} holds no autoencoder; give one by --vae FILE_OR_FOLDER")
    files: dict[str, tuple[FileHash, ...]] = dict.fromkeys(folders.NETWORKS, (file.file,))
    if other is not None:
        files["vae"] = other.files
    return Bundle(
        unet=file.unet.to(device),
        vae=(file.vae if other is None else other.module).to(device),
        text_encoder=file.text_encoder.to(device),
        tokenizer=file.tokenizer,
        scheduler_config=file.scheduler_config,
        source=str(path),
        hashes=_hashes(files),
        card=file.card,
        notes=(*file.notes, *(other.notes if other is not None else ())),
    )


def _load_folder(
    folder: Path,
    dtype: torch.dtype | None,
    device: torch.device | str,
    variant: str | None,
    vae: str | Path | None,
) -> Bundle:
    """A folder in diffusers format."""
    layout = folders.read_layout(folder, variant)
    read = {
        part: load_vae(vae, dtype)
        if part == "vae" and vae is not None
        else load_network(folder / part, part, dtype, variant)
        for part in folders.NETWORKS
    }
    networks = {part: network.module.to(device) for part, network in read.items()}
    scheduler, changes = load_scheduler_config(folder, layout.scheduler_class)
    notes = [*layout.notes, *(note for network in read.values() for note in network.notes)]
    return Bundle(
        **networks,
        tokenizer=load_tokenizer(
            folder / "tokenizer", int(networks["text_encoder"].config.max_position_embeddings)
        ),
        scheduler_config=scheduler,
        source=str(folder),
        hashes=_hashes({part: network.files for part, network in read.items()}),
        card=read_json(folder / folders.CARD) if (folder / folders.CARD).exists() else {},
        notes=(*notes, *changes, *_with_size(networks["unet"], networks["vae"], folder)),
    )


def _hashes(files: Mapping[str, tuple[FileHash, ...]]) -> Hashes:
    return Hashes({part: functools.partial(sum_of, several) for part, several in files.items()})


def _with_size(unet: Any, vae: Any, folder: Path) -> tuple[str, ...]:
    """Give a U-Net whose config names no size the one that its autoencoder was made for."""
    if unet.config.sample_size is not None:
        return ()
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    own = vae.config.sample_size
    pixels = own if isinstance(own, int) and own >= 8 * factor else 64 * factor
    unet.register_to_config(sample_size=pixels // factor)
    return (
        f"{folder / 'unet'} names no sample_size; pictures are {pixels} x {pixels} unless told",
    )


def load_tokenizer(folder: Path, positions: int) -> CLIPTokenizer:
    """The tokenizer of a model folder; positions: the text encoder's, its length limit if it names
    none."""
    from transformers import CLIPTokenizer

    whole = (folder / "tokenizer.json").is_file()
    pair = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not whole and not pair:
        raise UserError(f"{folder} holds no tokenizer; expected vocab.json and merges.txt")
    for file in folder.glob("*.json"):
        if file.name not in VOCABULARIES:
            refuse_code(read_json(file), file)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder} holds no CLIP tokenizer that can be read ({reason})") from error
    if tokenizer.model_max_length > 10**9:
        tokenizer.model_max_length = positions
    return tokenizer


def load_scheduler_config(folder: Path, class_name: str) -> tuple[SchedulerConfig, tuple[str, ...]]:
    """The scheduler's settings as diffusers' own pipeline reads them, and notes on what differs.

    That pipeline takes `steps_offset` as 1 and `clip_sample` as off whatever a folder says
    (diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py), and the class that
    model_index.json names.
    """
    raw = read_json(folder / "scheduler" / CONFIG_NAME)
    refuse_code(raw, folder / "scheduler" / CONFIG_NAME)
    notes = []
    written = raw.get("_class_name", class_name)
    if written != class_name:
        notes.append(
            f"{folder}: its scheduler folder was written for {str(written)[:80]}, "
            f"model_index.json names {class_name}, which is used"
        )
    unsaid = {"steps_offset": 1, "clip_sample": False}
    config, changes = for_stable_diffusion(
        read_config({**unsaid, **raw, "_class_name": class_name})
    )
    notes += [
        f"{folder}: {change}, as diffusers' Stable Diffusion pipeline does" for change in changes
    ]
    return config, tuple(notes)


def check_fit(bundle: Bundle) -> None:
    """UserError unless the parts fit together."""
    unet, vae, text = bundle.unet.config, bundle.vae.config, bundle.text_encoder.config
    channels = int(vae.latent_channels)
    if unet.in_channels not in (channels, 2 * channels + 1) or unet.out_channels != channels:
        raise UserError(
            f"the U-Net takes {unet.in_channels} and gives {unet.out_channels} channels, the "
            f"autoencoder's latents have {channels}: neither a text-to-image model nor an "
            f"inpainting model, which takes {2 * channels + 1}"
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
        write_json(place / "model_index.json", model_index(scheduler["_class_name"]))
        if bundle.card:
            write_json(place / folders.CARD, dict(bundle.card))
    return Path(folder)


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


_UNSAID = ("transformers_version", "dtype", "torch_dtype", "architectures", "vocab_size")
"""Of a text encoder's settings: what changes no picture, or is seen in the weights."""


def _canonical(settings: Mapping[str, Any]) -> str:
    kept = {k: v for k, v in settings.items() if k[0] != "_" and k not in _UNSAID}
    return json.dumps(kept, sort_keys=True, default=str)


def model_index(scheduler_class: str) -> dict[str, Any]:
    """The content of `model_index.json` for a scheduler's class of diffusers."""
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
