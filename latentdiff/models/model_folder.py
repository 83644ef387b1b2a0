"""Model folders as diffusers writes them: finding one, and what its `model_index.json` may say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from latentdiff.errors import UserError, nearest
from latentdiff.models.weights import find_weights, pick_variant, read_json

BUILT_IN = ("snowglobe",)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PIPELINE_CLASS = "StableDiffusionPipeline"
CARD = "snowglobe.json"

NETWORKS = {
    "unet": ("diffusers", "UNet2DConditionModel", "diffusion_pytorch_model"),
    "vae": ("diffusers", "AutoencoderKL", "diffusion_pytorch_model"),
    "text_encoder": ("transformers", "CLIPTextModel", "model"),
}
"""Part -> (library, class, stem of its weight files)."""
TEXT_PREFIX = "text_model."
"""Before the names of a text encoder's weights on disk; transformers 5 dropped it in memory."""
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
NOT_LOADED = ("safety_checker",)
IGNORED = ("feature_extractor", "image_encoder")


@dataclass(frozen=True)
class Layout:
    """What a folder holds: the scheduler's class, and notes for the user on parts left alone."""

    folder: Path
    scheduler_class: str
    notes: tuple[str, ...]


def resolve(name: str | Path, *, variant: str | None = None) -> Path:
    """The folder of a built-in name, a local path, or a hub id (the last may download).

    Whatever exists locally never touches the network. UserError for anything else, with a hint.
    """
    text = str(name)
    if text in BUILT_IN:
        return built_in_folder(text)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(
            f"{path} is a file; a model is a folder in diffusers format (with model_index.json)"
        )
    if isinstance(name, str) and HUB_ID.fullmatch(text) and not text.startswith("."):
        return _download(text, variant)
    close = nearest(text, BUILT_IN)
    hint = f"did you mean {close[0]!r}?" if close else "built in: " + ", ".join(BUILT_IN)
    raise UserError(
        f"no model at {text!r}; expected a folder, a hub id OWNER/NAME or a name; {hint}"
    )


def built_in_folder(name: str) -> Path:
    """Where the package keeps a model of its own."""
    folder = Path(str(resources.files("latentdiff"))) / "assets" / name
    if not (folder / "model_index.json").is_file():
        raise UserError(f"this installation lacks the model {name!r} (expected it in {folder})")
    return folder


def read_layout(folder: Path) -> Layout:
    """Check `model_index.json` against what this project can drive; UserError if it cannot."""
    index_path = folder / "model_index.json"
    if not index_path.is_file():
        raise UserError(f"{folder} has no model_index.json; expected a folder in diffusers format")
    index = read_json(index_path)
    kind = index.get("_class_name")
    if kind != PIPELINE_CLASS:
        raise UserError(f"{folder} holds a {kind}; expected a {PIPELINE_CLASS} (1.x or 2.x)")
    parts = {name: value for name, value in index.items() if isinstance(value, list)}
    for name, (library, class_name, _) in NETWORKS.items():
        _expect(folder, name, parts.get(name), library, (class_name,))
    _expect(folder, "tokenizer", parts.get("tokenizer"), "transformers", TOKENIZERS)
    scheduler = parts.get("scheduler")
    if not scheduler or len(scheduler) != 2 or scheduler[0] != "diffusers" or not scheduler[1]:
        raise UserError(f"{folder}: its scheduler is {scheduler}; expected a class of diffusers")
    known = {*NETWORKS, "tokenizer", "scheduler", *NOT_LOADED, *IGNORED}
    for name, value in parts.items():
        if name not in known and any(entry is not None for entry in value):
            raise UserError(f"{folder} has a part {name!r} ({value}) that is not known here")
    notes = tuple(
        f"the {name} of {folder} is not loaded"
        for name in NOT_LOADED
        if any(entry is not None for entry in parts.get(name, []))
    )
    return Layout(folder, str(scheduler[1]), notes)


def _expect(
    folder: Path, name: str, entry: list[object] | None, library: str, classes: tuple[str, ...]
) -> None:
    wanted = f"{library}.{classes[0]}"
    if entry is None or len(entry) != 2:
        raise UserError(f"{folder}: model_index.json names no {name}; expected {wanted}")
    if entry[0] != library or entry[1] not in classes:
        raise UserError(f"{folder}: its {name} is {entry[0]}.{entry[1]}; expected {wanted}")
    if not (folder / name).is_dir():
        raise UserError(f"{folder} has no folder {name}/; its model_index.json names it")


def _download(hub_id: str, variant: str | None) -> Path:
    """Fetch just the files of a hub repository that `load` will read; returns its snapshot."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            return Path(huggingface_hub.snapshot_download(hub_id, local_files_only=True))
        names = huggingface_hub.HfApi().list_repo_files(hub_id)
        wanted = wanted_files(names, hub_id, variant)
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{hub_id!r} is no local folder, and the hub did not give it ({reason})"
        ) from error


def wanted_files(names: list[str], where: str, variant: str | None) -> list[str]:
    """Of a repository's files, those that `load` reads: configs, tokenizer, one set of weights."""
    wanted = [n for n in names if n in ("model_index.json", CARD)]
    for part in ("scheduler", "tokenizer"):
        wanted += [n for n in names if n.startswith(f"{part}/") and n.endswith((".json", ".txt"))]
    for part, (_, _, stem) in NETWORKS.items():
        inside = [n.removeprefix(f"{part}/") for n in names if n.startswith(f"{part}/")]
        chosen = pick_variant(find_weights(inside, stem, f"{where}/{part}"), variant, where)
        wanted += [f"{part}/config.json", f"{part}/{chosen.name}"]
        if chosen.is_index:
            shards = [n for n in inside if n.endswith(".safetensors") and "-of-" in n]
            mark = "." if chosen.variant is None else f".{chosen.variant}"
            plain = chosen.variant is None
            wanted += [
                f"{part}/{n}"
                for n in shards
                if (mark in n.removesuffix(".safetensors")) is not plain
            ]
    return wanted
