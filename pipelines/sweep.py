"""Sweeps: the same request with other values of one or two fields, as a labelled grid."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from latentdiff import config as configs
from latentdiff.errors import UserError
from latentdiff.pipelines.recipes.picture_file import read_recipe
from latentdiff.pipelines.recipes.recipe import Recipe
from latentdiff.pipelines.request import Request

SHORT = {
    "steps": "num_inference_steps",
    "strength": "source.strength",
    "edit": "source.inversion.prompt",
    "variation_strength": "blend.amount",
    "variation_seed": "blend.seed",
    "upscale": "upscale.scale",
    "upscale_strength": "upscale.strength",
}
"""Names of options → fields of a request."""
MOST = 10_000
DRAWN_BY = ("request", "model", "weights_sha256", "settings_sha256", "loras", "embeddings", "dtype")
"""Keys of a recipe by which two pictures are the same one, up to the machine that drew it."""


@dataclass(frozen=True)
class Axis:
    """name: as it was written; field: of a request, dots inside records; values: as written."""

    name: str
    field: str
    values: tuple[str, ...]

    def labels(self) -> list[str]:
        """What stands over a column or beside a row."""
        return [f"{self.name} {value}" for value in self.values]


def parse_axis(text: str) -> Axis:
    """`guidance_scale=1,3,7`, or with bars where values hold commas: `prompt=a cat|a dog, wet`."""
    name, equals, listed = text.partition("=")
    values = tuple(v.strip() for v in listed.split("|" if "|" in listed else ","))
    if not equals or not name.strip() or not all(values):
        raise UserError(f"sweep {text!r} cannot be read; expected NAME=VALUE,VALUE,…")
    short = name.strip().lstrip("-").replace("-", "_")
    return Axis(short, SHORT.get(short, short), values)


def cells(request: Request, axes: Sequence[Axis]) -> list[Request]:
    """The request at every combination of one or two axes, the first running fastest."""
    if not 1 <= len(axes) <= 2 or len({axis.field for axis in axes}) < len(axes):
        raise UserError(f"{len(axes)} sweeps were given; expected one or two, of different names")
    columns, rows = axes[0], axes[1] if len(axes) == 2 else None
    if len(columns.values) * (len(rows.values) if rows else 1) > MOST:
        raise UserError(f"this sweep makes more than {MOST:,} pictures; give fewer values")
    down = [request] if rows is None else [with_value(request, rows, v) for v in rows.values]
    return [with_value(one, columns, v) for one, v in itertools.product(down, columns.values)]


def with_value(request: Request, axis: Axis, text: str) -> Request:
    """The request with one field set from text; UserError naming the nearest field, or the kind of
    value that it takes."""
    changed: Request = _set(request, axis.field.split("."), text, axis)
    return changed


def _set(record: Any, path: Sequence[str], text: str, axis: Axis) -> Any:
    name, *rest = path
    if rest:
        inner = getattr(record, name, None)
        if inner is None:
            raise UserError(f"{axis.name}: the request has no {name} to change")
        return dataclasses.replace(record, **{name: _set(inner, rest, text, axis)})
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(getattr(record, name, None), str):
        value = text
    return configs.from_dict(type(record), {name: value}, base=record)


def digest(recipe: Recipe) -> str:
    """Names a picture before it is drawn: of the resolved request, the weights and the LoRAs."""
    told = recipe.to_json()
    kept = {key: told[key] for key in DRAWN_BY}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def stands(path: Path, recipe: Recipe) -> bool:
    """Whether the file holds the picture of this recipe already, whole."""
    try:
        return path.exists() and digest(read_recipe(path)) == digest(recipe)
    except UserError:
        return False
