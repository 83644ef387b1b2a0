"""What was drawn: a folder of PNG files with their recipes, newest first. Nothing else is kept."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from latentdiff.errors import UserError
from latentdiff.pipelines.recipes.picture_file import read_recipe, read_recipes, save_picture
from latentdiff.pipelines.sweep import Axis
from latentdiff.pipelines.walk.batch import Picture
from latentdiff.sheet import axes_sheet
from latentdiff.web.uploads import without_paths

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")
TRASH = "trash"
INPUTS, LESSONS = "inputs", "lessons"
"""Folders of the gallery: what was drawn from, and what LoRAs are taught from."""


class NoPictureError(UserError):
    """No picture has the id that was asked for."""


@dataclass(frozen=True)
class Entry:
    """One picture of the gallery. recipe: of the first picture of a grid of several, with ids in
    place of files; None for a PNG that holds none. pictures: those of a grid, 1 for another."""

    id: str
    created: float
    width: int
    height: int
    recipe: Mapping[str, Any] | None
    pictures: int = 1


class Gallery:
    """PNG files of one folder; removed ones lie in its folder `trash` until someone empties it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[int, Entry]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the folder {folder} ({error.strerror}); "
                "choose another with --pictures"
            ) from error

    def add(self, picture: Picture) -> Entry:
        """Keep a picture; UserError when the disk will not."""
        name = _new_name(f"{picture.request.seed}-{slug(picture.request.prompt) or 'picture'}")
        picture.save(self.folder / f"{name}.png")
        return self.get(name)

    def add_grid(self, picture_ids: Sequence[str], axes: Sequence[Axis]) -> Entry:
        """Keep the pictures of a sweep once more as one, with its labels and all their recipes."""
        paths = [self.path(name) for name in picture_ids]
        images = []
        for path in paths:
            with Image.open(path, formats=("PNG",)) as image:
                images.append(image.convert("RGB"))
        rows = axes[1].labels() if len(axes) > 1 else [""]
        sheet = axes_sheet(images, axes[0].labels(), rows)
        name = _new_name("grid-" + slug(" ".join(axis.name for axis in axes)))
        save_picture(sheet, self.folder / f"{name}.png", [read_recipe(path) for path in paths])
        return self.get(name)

    def path(self, picture_id: str) -> Path:
        """Where a picture lies; NoPictureError when there is none of that id."""
        path = self.folder / f"{picture_id}.png"
        if not NAME.fullmatch(picture_id) or not path.is_file():
            raise NoPictureError("no picture has this id")
        return path

    def get(self, picture_id: str) -> Entry:
        """One picture's entry; NoPictureError when there is none of that id."""
        path = self.path(picture_id)
        changed = path.stat().st_mtime_ns
        known = self._known.get(picture_id)
        if known is None or known[0] != changed:
            known = changed, _read(path)
            self._known[picture_id] = known
        return known[1]

    def page(self, *, limit: int, before: str | None = None) -> list[Entry]:
        """The newest pictures, or the newest of those older than picture `before`."""
        names = sorted((p.stem for p in self.folder.glob("*.png")), reverse=True)
        older = (n for n in names if NAME.fullmatch(n) and (before is None or n < before))
        found: list[Entry] = []
        for name in older:
            if len(found) == limit:
                break
            with contextlib.suppress(UserError, OSError):  # removed meanwhile, or no picture
                found.append(self.get(name))
        return found

    def remove(self, picture_id: str) -> None:
        """Move a picture to the trash."""
        path = self.path(picture_id)
        trash = self.folder / TRASH
        trash.mkdir(exist_ok=True)
        path.replace(trash / path.name)
        self._known.pop(picture_id, None)

    def restore(self, picture_id: str) -> Entry:
        """Take a picture out of the trash again; NoPictureError when it is not there."""
        lost = self.folder / TRASH / f"{picture_id}.png"
        if not NAME.fullmatch(picture_id) or not lost.is_file():
            raise NoPictureError("no picture of this id is in the trash")
        lost.replace(self.folder / lost.name)
        return self.get(picture_id)


def _read(path: Path) -> Entry:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path.name} is no picture ({error})") from error
    recipe: dict[str, Any] | None
    try:
        recipes = read_recipes(path)
        recipe = recipes[0].to_json()
        recipe["request"] = without_paths(recipe["request"])
    except UserError:
        recipes, recipe = [], None
    return Entry(
        id=path.stem,
        created=path.stat().st_mtime,
        width=width,
        height=height,
        recipe=recipe,
        pictures=max(1, len(recipes)),
    )


def slug(text: str) -> str:
    """Letters and digits of a text, for a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def _new_name(rest: str) -> str:
    """A name that sorts by time, and that no other picture has."""
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    return f"{stamp}-{int(now * 1000) % 1000:03d}-{rest}-{secrets.token_hex(2)}"
