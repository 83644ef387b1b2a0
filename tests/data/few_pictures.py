"""A source held in memory, and pictures to put into it, for the tests of `data check`."""

import functools
import io

import numpy as np
from PIL import Image

from latentdiff.data.records import BadPicture, Problem
from latentdiff.scenes.world import World


class FewPictures:
    """A Source of (id, captions, bytes or BadPicture)."""

    def __init__(self, rows, problems=(), name="few"):
        self.rows, self.problems, self.name = list(rows), list(problems), name
        self.summary = f"{name}: {len(self.rows)} pictures"

    def __len__(self):
        return len(self.rows)

    def id(self, row):
        return self.rows[row][0]

    def captions(self, row):
        return self.rows[row][1]

    def read(self, row):
        data = self.rows[row][2]
        if isinstance(data, BadPicture):
            raise data
        return data

    def stamp(self, row):
        return str(row)


@functools.cache
def scene(index: int, size: int = 64) -> Image.Image:
    """A drawn scene: no two are the same picture."""
    return Image.fromarray(World(11, size=size).scene(index).image)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def reencoded(image: Image.Image, quality: int = 60) -> Image.Image:
    """The picture after JPEG."""
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality))).convert("RGB")


def cropped(image: Image.Image, left=0, top=0, right=0, bottom=0) -> Image.Image:
    return image.crop((left, top, image.width - right, image.height - bottom))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def problem(where="table:1", code="missing", fatal=True) -> Problem:
    return Problem(where, code, "for a reason", fatal)
