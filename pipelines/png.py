"""Pictures on disk: PNG with the whole recipe in its text chunks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from latentdiff.errors import UserError
from latentdiff.files import atomic_path
from latentdiff.pipelines.recipe import Recipe

CHUNK = "latentdiff"
"""The text chunk that holds the recipe, as JSON; a grid's holds a list of them."""


def save_png(image: Image.Image, path: str | Path, recipe: Recipe | Sequence[Recipe]) -> Path:
    """Write a picture with its recipe, or a grid with those of its pictures, atomically.

    Prompt, seed and Software stand beside it for viewers that show text chunks. Returns the
    absolute path; raises UserError when the place cannot be written.
    """
    first = recipe if isinstance(recipe, Recipe) else recipe[0]
    table: Any = (
        recipe.to_json() if isinstance(recipe, Recipe) else [one.to_json() for one in recipe]
    )
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(CHUNK, json.dumps(table, ensure_ascii=False, sort_keys=True))
    chunks.add_itxt("Description", first.request.prompt)
    chunks.add_itxt("seed", str(first.request.seed))
    chunks.add_text("Software", f"latentdiff {first.versions.get('latentdiff', '')}".strip())
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)
    return Path(path).resolve()


def read_recipe(path: str | Path) -> Recipe:
    """The recipe inside a PNG, the first one of a grid; UserError when there is none."""
    return read_recipes(path)[0]


def read_recipes(path: str | Path) -> list[Recipe]:
    """All recipes inside a PNG: one, or those of a grid; UserError when there is none."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            text = getattr(image, "text", {}).get(CHUNK)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a PNG ({error})") from error
    if text is None:
        raise UserError(f"{path} holds no latentdiff recipe")
    try:
        found = json.loads(text)
        # A grid of version 0.1 kept its list inside the first recipe.
        found = found.get("grid", found) if isinstance(found, dict) else found
        tables = found if isinstance(found, list) else [found]
        if not tables or not all(isinstance(table, dict) for table in tables):
            raise UserError("no table of keys")
        return [Recipe.from_json(table) for table in tables]
    except (ValueError, RecursionError, UserError) as error:
        raise UserError(f"the recipe in {path} cannot be used ({error})") from error
