"""Pictures on disk: PNG with the whole recipe in its text chunks, and grids of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from latentdiff.errors import UserError
from latentdiff.files import atomic_path

RECIPE = "latentdiff"
"""The text chunk that holds the recipe, as JSON."""


def save_png(image: Image.Image, path: str | Path, recipe: Mapping[str, Any]) -> Path:
    """Write a picture with its recipe, atomically; returns the absolute path.

    `latentdiff` holds the recipe as JSON; prompt, seed and Software stand beside it for viewers
    that show text chunks. Raises UserError when the place cannot be written.
    """
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(RECIPE, json.dumps(recipe, ensure_ascii=False, sort_keys=True))
    for key, name in (("prompt", "Description"), ("seed", "seed")):
        if key in recipe:
            chunks.add_itxt(name, str(recipe[key]))
    versions = recipe.get("versions", {})
    chunks.add_text("Software", f"latentdiff {versions.get('latentdiff', '')}".strip())
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)
    return Path(path).resolve()


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe inside a PNG; UserError when there is none."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            text = getattr(image, "text", {}).get(RECIPE)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a PNG ({error})") from error
    if text is None:
        raise UserError(f"{path} holds no latentdiff recipe")
    try:
        recipe = json.loads(text)
    except ValueError as error:
        raise UserError(f"the recipe in {path} is damaged ({error})") from error
    if not isinstance(recipe, dict):
        raise UserError(f"the recipe in {path} is damaged (no table of keys)")
    return recipe


def grid(images: Sequence[Image.Image], columns: int | None = None, gap: int = 4) -> Image.Image:
    """Equal pictures in rows on white; as near to a square as they go when columns is None."""
    if columns is None:
        columns = min((c for c in range(1, len(images) + 1) if c * c >= len(images)), default=1)
    width, height = images[0].size
    rows = -(-len(images) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for k, image in enumerate(images):
        sheet.paste(image, (k % columns * (width + gap), k // columns * (height + gap)))
    return sheet
