"""What `data check` learns of one picture from its bytes; runs inside a guarded worker.

An answer is bytes, so that nothing is unpickled: a line of JSON, then the raw digests. `look` and
`thumbnail` are named to the workers as "latentdiff.data.check.look:look" and so on.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentdiff.data.check import fingerprint
from latentdiff.data.decode.decoding import decode
from latentdiff.data.records import BadPicture

LOOK = f"{__name__}:look"
LOOK_ANY = f"{__name__}:look_any"
THUMBNAIL = f"{__name__}:thumbnail"
THUMBNAIL_SIDE = 160
_DIGEST = 16


@dataclass(frozen=True, kw_only=True)
class Look:
    """One decoded picture. width, height: pixels as it is seen; size: bytes of the file.

    content, pixels: 16 bytes each, equal for equal bytes and for equal decoded pixels.
    descriptor: (fingerprint.CELLS,) uint8. notes: what was mended, "code: words".
    """

    width: int
    height: int
    format: str
    size: int
    notes: tuple[str, ...]
    content: bytes
    pixels: bytes
    descriptor: NDArray[np.uint8]


def look(data: bytes) -> bytes:
    """Decode a picture and measure it; `read_answer` reads what comes back."""
    return _look(data, allow_gif_tiff=False)


def look_any(data: bytes) -> bytes:
    """`look`, with still GIF and TIFF allowed."""
    return _look(data, allow_gif_tiff=True)


def _look(data: bytes, *, allow_gif_tiff: bool) -> bytes:
    try:
        decoded = decode(data, allow_gif_tiff=allow_gif_tiff)
    except BadPicture as problem:
        return json.dumps({"code": problem.code, "reason": str(problem)}).encode() + b"\n"
    image = decoded.image
    head = {
        "width": image.width,
        "height": image.height,
        "format": decoded.format,
        "size": len(data),
        "notes": decoded.notes,
    }
    pixels = hashlib.blake2b(f"{image.size}".encode(), digest_size=_DIGEST)
    rows = max(1, (1 << 22) // image.width)  # in strips: a whole copy would double the memory
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels.update(strip.tobytes())
    content = hashlib.blake2b(data, digest_size=_DIGEST)
    return b"".join(
        (
            json.dumps(head).encode(),
            b"\n",
            content.digest(),
            pixels.digest(),
            fingerprint.describe(image).tobytes(),
        )
    )


def read_answer(answer: bytes) -> Look:
    """What `look` found. Raises BadPicture when that was a picture that cannot be used."""
    line, _, rest = answer.partition(b"\n")
    head = json.loads(line)
    if "code" in head:
        raise BadPicture(head["code"], head["reason"])
    return Look(
        width=head["width"],
        height=head["height"],
        format=head["format"],
        size=head["size"],
        notes=tuple(head["notes"]),
        content=rest[:_DIGEST],
        pixels=rest[_DIGEST : 2 * _DIGEST],
        descriptor=np.frombuffer(rest, np.uint8, offset=2 * _DIGEST),
    )


def thumbnail(data: bytes) -> bytes:
    """A small JPEG of a picture, b"" when it cannot be decoded."""
    try:
        image = decode(data, allow_gif_tiff=True).image
    except BadPicture:
        return b""
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=82, optimize=True)
    return written.getvalue()
