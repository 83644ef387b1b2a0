"""Pictures to start from, and masks: named by the hash of their bytes, never by a path.

What was sent lies in memory, the oldest leaving when there is too much; what a picture is drawn
from is kept as a file of the gallery's folder `inputs`, so that its recipe can be drawn again.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentdiff import files
from latentdiff.data.decode.decoding import decode
from latentdiff.data.records import BadPicture
from latentdiff.errors import UserError

NAME = re.compile(r"[0-9a-f]{64}")
KINDS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp"}
"""Formats that are taken, and the suffixes of their files."""
MEDIA = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "bmp": "image/bmp"}
HELD_BYTES = 256_000_000
"""Of all pictures that wait in memory together."""


class NoUploadError(UserError):
    """No upload has the id that was asked for."""


@dataclass(frozen=True)
class Upload:
    """id: SHA-256 of the bytes. width, height: of the upright picture."""

    id: str
    width: int
    height: int


@dataclass(frozen=True)
class _Held:
    data: bytes
    suffix: str


class Uploads:
    """folder: where those that were drawn from are kept. max_pixels: of one picture."""

    def __init__(self, folder: Path, *, max_pixels: int, held_bytes: int = HELD_BYTES) -> None:
        self.folder, self.max_pixels, self.held_bytes = folder, max_pixels, held_bytes
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, data: bytes) -> Upload:
        """Take a picture in; UserError for bytes that are none, or too large a one."""
        found = read_sent(data, self.max_pixels)
        name = hashlib.sha256(data).hexdigest()
        with self._lock:
            self._held[name] = _Held(data, found.suffix)
            self._held.move_to_end(name)
            while sum(len(one.data) for one in self._held.values()) > self.held_bytes:
                self._held.popitem(last=False)
        return Upload(name, *found.size)

    def read(self, upload_id: str) -> tuple[bytes, str]:
        """An upload's bytes and media type; NoUploadError when it is not here (any more)."""
        with self._lock:
            held = self._held.get(upload_id)
        if held is not None:
            return held.data, MEDIA[held.suffix]
        path = self._file(upload_id)
        return path.read_bytes(), MEDIA[path.suffix[1:]]

    def path(self, upload_id: str) -> Path:
        """A file that holds the upload, made when it is first drawn from; NoUploadError."""
        with self._lock:
            held = self._held.get(upload_id)
        if held is None:
            return self._file(upload_id)
        path = self.folder.resolve() / f"{upload_id}.{held.suffix}"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, held.data)
        return path

    def _file(self, upload_id: str) -> Path:
        if NAME.fullmatch(upload_id):
            for suffix in MEDIA:
                path = self.folder.resolve() / f"{upload_id}.{suffix}"
                if path.is_file():
                    return path
        raise NoUploadError("this picture is not here any more; send it again")


@dataclass(frozen=True)
class Sent:
    """What the bytes of a sent picture hold. size: (width, height)."""

    suffix: str
    size: tuple[int, int]


def read_sent(data: bytes, max_pixels: int) -> Sent:
    """Look at a picture that a caller sent, by decoding it; UserError when it cannot be used."""
    try:
        found = decode(data, max_pixels=max_pixels)
    except BadPicture as error:
        raise UserError(f"this picture cannot be used: {error}") from error
    return Sent(KINDS[found.format], found.image.size)


def without_paths(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request's JSON as callers see it: ids in place of the server's files."""
    told = dict(request)
    source = told.get("source")
    if isinstance(source, Mapping):
        source = dict(source)
        source["image"] = Path(str(source.get("image", ""))).stem
        inpaint = source.get("inpaint")
        if isinstance(inpaint, Mapping):
            source["inpaint"] = {**inpaint, "mask": Path(str(inpaint.get("mask", ""))).stem}
        told["source"] = source
    return told
