"""What a model's settings say, its weights left unread: the sizes it takes, and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentdiff.errors import UserError
from latentdiff.files.json_file import read_json
from latentdiff.models import model_folder
from latentdiff.models.geometry import Geometry, of_configs
from latentdiff.models.single_files import single_file
from latentdiff.models.tokenizer_files import load_tokenizer


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSettings:
    """The sizes a model takes, and what counts its tokens, as drawing needs it."""

    geometry: Geometry
    tokenizer: Any


def read_settings(name: str | Path) -> ModelSettings:
    """The settings of a model by name, folder, single file or hub id, as `bundle.load` takes it.

    Raises UserError, one line, for what is missing or of another kind.
    """
    path = model_folder.resolve(name).path
    try:
        if path.is_file():
            configs, tokenizer = single_file.read_configs(path)
            return ModelSettings(
                geometry=of_configs(configs["vae"], configs["unet"]), tokenizer=tokenizer.light
            )
        model_folder.read_layout(path)
        read: dict[str, Any] = {
            part: read_json(path / part / "config.json") for part in model_folder.NETWORKS
        }
        positions = int(read["text_encoder"].get("max_position_embeddings", 77))
        return ModelSettings(
            geometry=of_configs(read["vae"], read["unet"]),
            tokenizer=load_tokenizer(path / "tokenizer", positions).light,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the settings of the model {name} lack {error}") from error
