"""Pictures on disk with what made them inside: PNG text chunks, EXIF in JPEG and WebP."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from latentdiff.errors import UserError
from latentdiff.files import atomic_path
from latentdiff.pipelines.recipes.a1111 import Foreign, read_parameters, write_parameters
from latentdiff.pipelines.recipes.comfyui import read_graph
from latentdiff.pipelines.recipes.formats import SUFFIXES, Format
from latentdiff.pipelines.recipes.recipe import Recipe

CHUNK = "latentdiff"
"""The PNG text chunk that holds the recipe, as JSON; a grid's holds a list of them."""
EXIF_IFD, USER_COMMENT, MAKER_NOTE, SOFTWARE, MODEL = 0x8769, 0x9286, 0x927C, 0x0131, 0x0110
MARK = b"latentdiff\0"
"""Begins the maker's note that holds the recipe, compressed."""
LARGEST_RECIPE = 1 << 24
"""Bytes of JSON that are read from a file."""
LARGEST_EXIF = 65_000
"""Bytes of EXIF that a JPEG holds."""
SAVING: dict[Format, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "webp": {"format": "WEBP", "lossless": True, "quality": 80, "method": 4},
}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a picture file says: our recipes, or another program's settings, or neither."""

    image: Image.Image
    recipes: tuple[Recipe, ...] = ()
    foreign: Foreign | None = None


def format_of(path: str | Path) -> Format:
    """The format that a file's name asks for; UserError for one that is not written here."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder; expected the name of a file")
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} names no format that holds a recipe; expected .png, .jpg or .webp")
    return SUFFIXES[suffix]


def save_picture(image: Image.Image, path: str | Path, recipe: Recipe | Sequence[Recipe]) -> Path:
    """Write a picture with its recipe, or a grid with those of its pictures, atomically.

    The suffix is the format: PNG and WebP keep every pixel, JPEG does not. A1111's `parameters`
    stand beside the recipe for other programs. Returns the absolute path; raises UserError when
    the place cannot be written.
    """
    kind = format_of(path)
    recipes = [recipe] if isinstance(recipe, Recipe) else list(recipe)
    digest = pixels_sha256(image)
    recipes = [dataclasses.replace(one, pixels_sha256=digest) for one in recipes]
    kept = recipes[0] if isinstance(recipe, Recipe) else recipes
    extra = _chunks(kept) if kind == "png" else {"exif": exif_of(kept)}
    if kind == "jpg" and len(extra["exif"].tobytes()) > LARGEST_EXIF:
        raise UserError(f"{len(recipes)} recipes do not fit into a JPEG; use .png or .webp")
    with atomic_path(path) as temporary:
        image.convert("RGB").save(temporary, **SAVING[kind], **extra)
    return Path(path).resolve()


def pixels_sha256(image: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB values."""
    size = f"{image.width}x{image.height} ".encode()
    return hashlib.sha256(size + image.convert("RGB").tobytes()).hexdigest()


def _written(kept: Recipe | Sequence[Recipe]) -> tuple[Recipe, str, str]:
    """The first recipe, all as JSON (one as a table, several as a list), and A1111's text."""
    first = kept if isinstance(kept, Recipe) else kept[0]
    tables = kept.to_json() if isinstance(kept, Recipe) else [one.to_json() for one in kept]
    return first, json.dumps(tables, ensure_ascii=False, sort_keys=True), write_parameters(first)


def _chunks(kept: Recipe | Sequence[Recipe]) -> dict[str, Any]:
    first, text, parameters = _written(kept)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(CHUNK, text)
    if parameters.isascii():
        chunks.add_text("parameters", parameters)
    else:
        chunks.add_itxt("parameters", parameters)
    chunks.add_itxt("Description", first.request.prompt)
    chunks.add_itxt("seed", str(first.request.seed))
    chunks.add_text("Software", f"latentdiff {first.versions.get('latentdiff', '')}".strip())
    return {"pnginfo": chunks}


def exif_of(kept: Recipe | Sequence[Recipe]) -> Image.Exif:
    """EXIF that holds a recipe, or those of several pictures, and A1111's text."""
    _, text, parameters = _written(kept)
    exif = Image.Exif()
    exif[SOFTWARE] = "latentdiff"
    inner = exif.get_ifd(EXIF_IFD)
    inner[USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be")
    inner[MAKER_NOTE] = MARK + zlib.compress(text.encode("utf-8"), 9)
    return exif


def read_recipe(path: str | Path) -> Recipe:
    """The recipe inside a picture, the first one of a grid; UserError when there is none."""
    return read_recipes(path)[0]


def read_recipes(path: str | Path) -> list[Recipe]:
    """All recipes inside a picture: one, or those of a grid; UserError when there is none."""
    found = read_picture(path)
    if not found.recipes:
        raise UserError(f"{path} holds no latentdiff recipe")
    return list(found.recipes)


def read_picture(path: str | Path) -> Contents:
    """The picture and what is written inside it; UserError for a damaged file or recipe."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            image.load()
            chunks = {k: str(v) for k, v in getattr(image, "text", {}).items()}
            exif = image.getexif()
            inner, plain = dict(exif.get_ifd(EXIF_IFD)), dict(exif)
            whole = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = Path(path).suffix[1:].upper() or "picture"
        raise UserError(f"{path} cannot be read as a {kind} ({error})") from error
    try:
        recipe = chunks.get(CHUNK)
        if recipe is None and _bytes(inner.get(MAKER_NOTE)).startswith(MARK):
            packed = _bytes(inner[MAKER_NOTE])[len(MARK) :]
            recipe = zlib.decompressobj().decompress(packed, LARGEST_RECIPE).decode("utf-8")
        if recipe is not None:
            return Contents(image=whole, recipes=tuple(_recipes(recipe)))
    except (ValueError, RecursionError, zlib.error, UserError) as error:
        raise UserError(f"the recipe in {path} cannot be used ({error})") from error
    try:
        return Contents(image=whole, foreign=_foreign(chunks, inner, plain))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _recipes(text: str) -> list[Recipe]:
    found = json.loads(text)
    # A grid of version 0.1 kept its list inside the first recipe.
    found = found.get("grid", found) if isinstance(found, dict) else found
    tables = found if isinstance(found, list) else [found]
    if not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError("no table of keys")
    return [Recipe.from_json(table) for table in tables]


def _foreign(
    chunks: dict[str, str], inner: dict[int, Any], plain: dict[int, Any]
) -> Foreign | None:
    parameters = chunks.get("parameters") or _comment(_bytes(inner.get(USER_COMMENT)))
    graph = chunks.get("prompt")
    if graph is None and str(plain.get(MODEL, "")).startswith("prompt:"):
        graph = str(plain[MODEL]).removeprefix("prompt:")  # ComfyUI's WebP
    if graph is not None and not parameters:
        return read_graph(graph)
    return read_parameters(parameters) if parameters else None


def _comment(raw: bytes) -> str:
    """EXIF's user comment: eight bytes name its encoding."""
    head, body = raw[:8], raw[8:]
    if head == b"UNICODE\0":
        little = body[:2] == b"\xff\xfe" or (len(body) > 1 and body[1] == 0 != body[0])
        return body.decode("utf-16-le" if little else "utf-16-be", "replace").strip("\ufeff\0")
    return body.decode("utf-8", "replace").strip("\0 ") if head.startswith(b"ASCII") else ""


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) else b""
