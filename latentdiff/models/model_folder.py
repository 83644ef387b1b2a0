"""Model folders as diffusers writes them: finding one, and what its `model_index.json` may say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from latentdiff.errors import UserError, nearest
from latentdiff.files import hub
from latentdiff.files.json_file import read_json
from latentdiff.models.weights import WeightFile, check_variant, find_weights, pick_variant

BUILT_IN = ("snowglobe",)
_ASSETS = Path(str(resources.files("latentdiff"))) / "assets"
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
class Located:
    """A model on disk: a folder in diffusers format, or a single file. notes: for the user."""

    path: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What a folder holds: the scheduler's class, and notes for the user on parts left alone."""

    folder: Path
    scheduler_class: str
    notes: tuple[str, ...]


def resolve(name: str | Path, *, variant: str | None = None) -> Located:
    """Where the model of a built-in name, a local path, or a hub id is (the last may download).

    Whatever exists locally never touches the network. UserError for anything else, with a hint.
    """
    text = str(name)
    if text in BUILT_IN:
        return Located(built_in_folder(text))
    path = Path(name).expanduser()
    if path.exists():
        return Located(path)
    hub_name = hub.parse(text) if isinstance(name, str) else None
    if hub_name is not None:
        return _from_hub(hub_name, variant)
    close = nearest(text, BUILT_IN)
    hint = f"did you mean {close[0]!r}?" if close else "built in: " + ", ".join(BUILT_IN)
    raise UserError(
        f"no model at {text!r}; expected a folder, a .safetensors file, a hub id OWNER/NAME or a "
        f"name; {hint}"
    )


def built_in_folder(name: str) -> Path:
    """Where the package keeps a model of its own."""
    folder = _ASSETS / name
    if not (folder / "model_index.json").is_file():
        raise UserError(f"this installation lacks the model {name!r} (expected it in {folder})")
    return folder


def short_name(source: str) -> str:
    """How a recipe calls a model: a folder of the package's own by its name, others as they are."""
    if not source:
        return "in memory"
    path = Path(source)
    return path.name if path.parent == _ASSETS else source


def weights_of(folder: Path, part: str) -> list[WeightFile]:
    """The sets of weights in a part's folder."""
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    return find_weights(names, NETWORKS[part][2], str(folder))


def read_layout(folder: Path, variant: str | None = None) -> Layout:
    """Check `model_index.json` against what this project can drive; UserError if it cannot.

    variant: of the weights, which at least one part must have.
    """
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
    if variant is not None:
        found = [w for part in NETWORKS for w in weights_of(folder / part, part)]
        check_variant(found, variant, str(folder))
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


def _from_hub(name: hub.HubName, variant: str | None) -> Located:
    """Fetch just the files of a hub repository that `load` will read."""

    def choose(names: Sequence[str]) -> list[str]:
        if name.file is not None:
            if name.file not in names:
                raise UserError(f"{name.repo} has no file {name.file}; it has {_listed(names)}")
            return [name.file]
        if "model_index.json" not in names:
            single = [n for n in names if n.endswith(".safetensors") and "/" not in n]
            hint = f"; perhaps {name.repo}/{single[0]} is meant" if single else ""
            raise UserError(f"{name} on the hub holds no model in diffusers format{hint}")
        return wanted_files(list(names), str(name), variant)

    fetched = hub.fetch(name, choose)
    return Located(fetched.folder / (name.file or ""), fetched.notes)


def _listed(names: Sequence[str]) -> str:
    weights = [n for n in names if n.endswith(".safetensors")] or list(names)
    return ", ".join(weights[:5]) + (", …" if len(weights) > 5 else "")


def wanted_files(names: list[str], where: str, variant: str | None) -> list[str]:
    """Of a repository's files, those that `load` reads: configs, tokenizer, one set of weights."""
    wanted = [n for n in names if n in ("model_index.json", CARD)]
    for part in ("scheduler", "tokenizer"):
        wanted += [n for n in names if n.startswith(f"{part}/") and n.endswith((".json", ".txt"))]
    found = {}
    for part, (_, _, stem) in NETWORKS.items():
        inside = [n.removeprefix(f"{part}/") for n in names if n.startswith(f"{part}/")]
        found[part] = find_weights(inside, stem, f"{where}/{part}")
    check_variant((w for several in found.values() for w in several), variant, where)
    for part in NETWORKS:
        inside = [n.removeprefix(f"{part}/") for n in names if n.startswith(f"{part}/")]
        chosen = pick_variant(found[part], variant)
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
