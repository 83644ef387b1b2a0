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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from latentdiff.diffusion.prediction_types import Prediction
from latentdiff.errors import UserError
from latentdiff.files import publish_folder, write_json
from latentdiff.files.json_file import read_json
from latentdiff.models import model_folder as folders
from latentdiff.models.light.part import Late, Part
from latentdiff.models.networks import load_network, refuse_code, save_network
from latentdiff.models.preview import STABLE_DIFFUSION_1, Preview
from latentdiff.models.single_files.single_file import UNSAID, read_single_file
from latentdiff.models.single_files.vae_file import load_vae
from latentdiff.models.tokenizer_files import load_tokenizer, save_tokenizer, written_tokenizer
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


class LightParts(NamedTuple):
    """A model's parts as drawing needs them: light forms, or own modules where those were made."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A whole model.

    Its parts are light until somebody reads `unet`, `vae`, `text_encoder` or `tokenizer`: then they
    are diffusers' and transformers' own. What needs a part only to draw asks `light` for it.

    source: where it was loaded from (a folder), or "" for one made in memory. hashes: part ->
    SHA-256 of its weight file, as `sha256sum` prints it (of the list of the shards' sums if there
    are several), made when it is asked for; empty for one made in memory. card: the content of
    `snowglobe.json`, for models that carry one. notes: what the user should know about what was
    not loaded. variant, vae_source, said_prediction: which set of weights was asked for, whose
    autoencoder stands in, and what the U-Net was said to predict, each as it was named.
    embeddings: file, sha256 and token of each learned word.
    """

    unet: Late[UNet2DConditionModel] = Late()
    vae: Late[AutoencoderKL] = Late()
    text_encoder: Late[CLIPTextModel] = Late()
    tokenizer: Late[CLIPTokenizer] = Late()
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

    def part(self, name: str) -> Part[Any]:
        """A part of the model by its field's name, in whichever form it is."""
        found: Part[Any] = vars(self)[f"_{name}"]
        return found

    @property
    def light(self) -> LightParts:
        """The parts as drawing needs them."""
        return LightParts(*(self.part(name).light for name in LightParts._fields))

    def changed(self, **changes: Any) -> Bundle:
        """`dataclasses.replace` that leaves light parts light."""
        held = {name: self.part(name) for name in LightParts._fields}
        names = [field.name for field in dataclasses.fields(self) if field.name not in held]
        return Bundle(**{**held, **{name: getattr(self, name) for name in names}, **changes})

    @functools.cached_property
    def settings_sha256(self) -> dict[str, str]:
        """Part -> SHA-256 of its settings as they were read: what weights' hashes leave out, such
        as an activation, a noise schedule or a tokenizer's words."""
        light = self.light
        told = {
            "unet": _canonical(light.unet.config),
            "vae": _canonical(light.vae.config),
            "text_encoder": _canonical(_told(light.text_encoder.config)),
            "scheduler": _canonical(vars(self.scheduler_config)),
            "tokenizer": written_tokenizer(light.tokenizer),
        }
        return {part: hashlib.sha256(text.encode()).hexdigest() for part, text in told.items()}

    @property
    def repaints(self) -> bool:
        """Whether the U-Net sees x_t, a mask and a picture's latents: an inpainting checkpoint."""
        unet, vae = self.light.unet.config, self.light.vae.config
        return int(unet.in_channels) != int(vae.latent_channels)

    @property
    def preview(self) -> Preview | None:
        """The latent-to-RGB matrix: the model's own, Stable Diffusion's for its kind, or none."""
        vae = self.light.vae.config
        channels = int(vae.latent_channels)
        if "preview" in self.card:
            return Preview.from_json(self.card["preview"], channels)
        same = channels == 4 and abs(float(vae.scaling_factor) - 0.18215) < 1e-4
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
    bundle = bundle.changed(
        notes=(*located.notes, *bundle.notes),
        variant=variant or "",
        vae_source="" if vae is None else str(vae),
        said_prediction=prediction_type or "",
    )
    if prediction_type is None:
        return bundle
    return bundle.changed(
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
    vae_part = file.vae if other is None else other.part
    if vae_part is None:
        raise UserError(f"{path} holds no autoencoder; give one by --vae FILE_OR_FOLDER")
    for part in (file.unet, vae_part, file.text_encoder):
        part.light.to(device)
    files: dict[str, tuple[FileHash, ...]] = dict.fromkeys(folders.NETWORKS, (file.file,))
    if other is not None:
        files["vae"] = other.files
    return Bundle(
        unet=file.unet,
        vae=vae_part,
        text_encoder=file.text_encoder,
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
    networks: dict[str, Any] = {part: network.part for part, network in read.items()}
    for network in networks.values():
        network.light.to(device)
    scheduler, changes = load_scheduler_config(folder, layout.scheduler_class)
    notes = [*layout.notes, *(note for network in read.values() for note in network.notes)]
    return Bundle(
        **networks,
        tokenizer=load_tokenizer(
            folder / "tokenizer", int(networks["text_encoder"].light.config.max_position_embeddings)
        ),
        scheduler_config=scheduler,
        source=str(folder),
        hashes=_hashes({part: network.files for part, network in read.items()}),
        card=read_json(folder / folders.CARD) if (folder / folders.CARD).exists() else {},
        notes=(*notes, *changes, *_with_size(networks["unet"], networks["vae"], folder)),
    )


def _hashes(files: Mapping[str, tuple[FileHash, ...]]) -> Hashes:
    return Hashes({part: functools.partial(sum_of, several) for part, several in files.items()})


def _with_size(unet: Part[Any], vae: Part[Any], folder: Path) -> tuple[str, ...]:
    """Give a U-Net whose config names no size the one that its autoencoder was made for."""
    if unet.light.config.sample_size is not None:
        return ()
    factor = 2 ** (len(vae.light.config.block_out_channels) - 1)
    own = vae.light.config.sample_size
    pixels = own if isinstance(own, int) and own >= 8 * factor else 64 * factor
    unet.set_config(sample_size=pixels // factor)
    return (
        f"{folder / 'unet'} names no sample_size; pictures are {pixels} x {pixels} unless told",
    )


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
    light = bundle.light
    unet, vae, text = light.unet.config, light.vae.config, light.text_encoder.config
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
    if len(light.tokenizer) > text.vocab_size:
        raise UserError(
            f"the tokenizer has {len(light.tokenizer)} tokens, "
            f"the text encoder knows {text.vocab_size}"
        )
    if light.tokenizer.model_max_length > text.max_position_embeddings:
        raise UserError(
            f"the tokenizer allows {light.tokenizer.model_max_length} tokens, "
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


_UNSAID = ("transformers_version", "dtype", "torch_dtype", "architectures", "vocab_size")
"""Of a text encoder's settings: what changes no picture, or is seen in the weights."""


def _told(config: Any) -> Mapping[str, Any]:
    """A text encoder's settings, its own module's or a light one's."""
    told: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    return told


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
