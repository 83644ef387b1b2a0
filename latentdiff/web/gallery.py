"""What was drawn: a folder of PNG files with their recipes, newest first. Nothing else is kept."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from latentdiff.errors import UserError
from latentdiff.pipelines.recipes.picture_file import read_recipe
from latentdiff.pipelines.walk.batch import Picture

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")
TRASH = "trash"


class NoPictureError(UserError):
    """No picture has the id that was asked for."""


@dataclass(frozen=True)
class Entry:
    """One picture of the gallery. recipe: None for a PNG that holds none."""

    id: str
    created: float
    width: int
    height: int
    recipe: Mapping[str, Any] | None


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
        now = time.time()
        stamp = (
            f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{int(now * 1000) % 1000:03d}"
        )
        words = re.sub(r"[^a-z0-9]+", "-", picture.request.prompt.lower()).strip("-")[:40]
        name = f"{stamp}-{picture.request.seed}-{words or 'picture'}-{secrets.token_hex(2)}"
        picture.save(self.folder / f"{name}.png")
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
    recipe: Mapping[str, Any] | None
    try:
        recipe = read_recipe(path).to_json()
    except UserError:
        recipe = None
    return Entry(path.stem, path.stat().st_mtime, width, height, recipe)
