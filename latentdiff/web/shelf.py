"""The models and LoRAs that a server offers, by name: a caller never sends a path."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentdiff.errors import UserError, unknown_name
from latentdiff.models import geometry, model_folder
from latentdiff.models.geometry import Geometry
from latentdiff.models.lora.metadata import metadata_of
from latentdiff.pipelines.recipes.recipe import Recipe

LONGEST_HEADER = 10_000_000
WEIGHTS = "pytorch_lora_weights.safetensors"
TAUGHT = f"run/export/{WEIGHTS}"
"""Where a lesson's folder holds what was learnt."""


@dataclass(frozen=True)
class LoraEntry:
    """name: what callers say. words: those that call its subject up."""

    name: str
    path: Path
    words: tuple[str, ...]
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """model: the one to begin with, a built-in name, a folder or a hub id. models, loras: folders
    that are looked through each time they are asked for, so that new files need no new start.
    lessons_folder: where LoRAs are taught; what one has learnt so far is offered by its name."""

    model: str = "snowglobe"
    models_folder: Path | None = None
    loras_folder: Path | None = None
    lessons_folder: Path | None = None

    def __post_init__(self) -> None:
        for folder in (self.models_folder, self.loras_folder):
            if folder is not None and not folder.is_dir():
                raise UserError(f"{folder} is no folder; expected one that holds models or LoRAs")

    @property
    def first(self) -> str:
        """The name of the model to begin with."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model

    def models(self) -> dict[str, str]:
        """Name → what `from_pretrained` takes."""
        found = {self.first: self.model}
        for name in model_folder.BUILT_IN:
            found.setdefault(name, name)
        if self.models_folder is not None:
            for index in sorted(self.models_folder.glob("*/model_index.json")):
                found.setdefault(index.parent.name, str(index.parent))
        return found

    def model_of(self, name: str | None) -> tuple[str, str]:
        """(name, what `from_pretrained` takes) of a model, of the first one for None."""
        models = self.models()
        name = self.first if name is None else name
        if name not in models:
            raise unknown_name("model", name, models)
        return name, models[name]

    def card(self, name: str) -> Mapping[str, Any]:
        """What a local model says of itself: its card, empty for models without one."""
        return _read_json(self._folder(name) / model_folder.CARD)

    def geometry(self, name: str) -> Geometry | None:
        """The sizes that a local model takes; None where its configs do not say."""
        folder = self._folder(name)
        configs = [_read_json(folder / part / "config.json") for part in ("vae", "unet")]
        try:
            return geometry.of_configs(*configs)
        except (KeyError, TypeError, ValueError):
            return None

    def _folder(self, name: str) -> Path:
        _, source = self.model_of(name)
        built_in = source in model_folder.BUILT_IN
        return model_folder.built_in_folder(source) if built_in else Path(source)

    def loras(self) -> dict[str, LoraEntry]:
        """Name → LoRA: files of the folder, and folders in it that hold one; lessons."""
        paths: dict[str, Path] = {}
        if self.lessons_folder is not None:
            for file in self.lessons_folder.glob(f"*/{TAUGHT}"):
                paths[file.relative_to(self.lessons_folder).parts[0]] = file
        if self.loras_folder is not None:
            for file in sorted(self.loras_folder.glob("*.safetensors")):
                paths[file.stem] = file
            for folder in sorted(p for p in self.loras_folder.iterdir() if p.is_dir()):
                file = folder / WEIGHTS
                if file.is_file():
                    paths[folder.name] = file
        return {name: _lora_entry(name, path) for name, path in sorted(paths.items())}

    def lora_of(self, name: str) -> LoraEntry:
        """The LoRA of that name; UserError, with the nearest, for another."""
        loras = self.loras()
        if name not in loras:
            raise unknown_name("LoRA", name, loras)
        return loras[name]

    def model_in(self, recipe: Recipe) -> str:
        """The name here of the model that a picture was drawn with; UserError when it is not."""
        known, short = self.models(), recipe.model.rstrip("/").rpartition("/")[2]
        name = recipe.model if recipe.model in known else short
        if name not in known:
            raise UserError(f"the model of this picture, {recipe.model}, is not here")
        return name

    def loras_in(self, recipe: Recipe) -> tuple[tuple[str, float], ...]:
        """(name here, scale) of the LoRAs that a picture was drawn with; UserError for one that is
        not here."""
        here = {str(entry.path.resolve()): entry.name for entry in self.loras().values()}
        found = []
        for lora in recipe.loras:
            path = Path(str(lora.get("file", "")))
            name = here.get(str(path.resolve()))
            if name is None:
                raise UserError(f"the LoRA of this picture, {path.name}, is not here")
            found.append((name, float(lora.get("scale", 1.0))))
        return tuple(found)


def _read_json(path: Path) -> Mapping[str, Any]:
    """A file's JSON object; empty where there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lora_entry(name: str, path: Path) -> LoraEntry:
    """What a file's header says of it, without reading its weights."""
    header: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length <= LONGEST_HEADER:
                found = json.loads(file.read(length)).get("__metadata__", {})
                header = {str(k): str(v) for k, v in found.items()}
    except (OSError, ValueError, struct.error, AttributeError):
        header = {}
    metadata = metadata_of(header)
    return LoraEntry(name, path, metadata.trigger_words, metadata.training_prompt)
