"""Moving pictures on disk: animated WebP and GIF, and MP4 where PyAV is installed."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from latentdiff.errors import UserError, needs_extra
from latentdiff.files import atomic_path
from latentdiff.pipelines.recipes.picture_file import exif_of
from latentdiff.pipelines.recipes.recipe import Recipe

SUFFIXES = (".webp", ".gif", ".mp4")
CRF = "14"
"""H.264's constant rate factor: 0 is lossless, 23 the usual, 14 looks like its source."""


def check_animation(path: str | Path) -> None:
    """UserError for a name that is no animation's, or a library that is not there to write it."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} is no animation; expected a name in {', '.join(SUFFIXES)}")
    if suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError as error:
            raise needs_extra("writing MP4", error, extra="video") from error


def save_animation(
    images: Sequence[Image.Image],
    path: str | Path,
    *,
    frames_per_second: float,
    recipes: Sequence[Recipe] = (),
) -> Path:
    """Write moving pictures of one size: lossless and for ever in WebP, in 256 colours in GIF, once
    and as H.264 in MP4. recipes: of the frames; a WebP keeps them.

    Returns the absolute path; UserError for another suffix, and for MP4 without PyAV.
    """
    place = Path(path)
    check_animation(place)
    if not 0.1 <= frames_per_second <= 100.0:
        raise UserError(f"{frames_per_second} frames a second is out of range; expected 0.1 … 100")
    with atomic_path(place) as temporary:
        if place.suffix.lower() == ".mp4":
            _write_mp4(images, temporary, frames_per_second)
        else:
            _write_frames(images, temporary, frames_per_second, recipes)
    return place.resolve()


def _write_frames(
    images: Sequence[Image.Image], place: Path, rate: float, recipes: Sequence[Recipe]
) -> None:
    webp = place.suffix.lower() == ".webp"
    kept = {"lossless": True, **({"exif": exif_of(recipes)} if recipes else {})}
    images[0].save(
        place,
        format="WEBP" if webp else "GIF",
        save_all=True,
        append_images=list(images[1:]),
        duration=round(1000 / rate),
        loop=0,
        **(kept if webp else {}),
    )


def _write_mp4(images: Sequence[Image.Image], place: Path, rate: float) -> None:
    import av

    with av.open(str(place), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        # 4:2:0 halves the colours' sides, and every player knows it.
        stream.width, stream.height = (side + side % 2 for side in images[0].size)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": CRF}
        for image in images:
            pixels = np.asarray(image.convert("RGB"))
            room = ((0, image.height % 2), (0, image.width % 2), (0, 0))
            frame = av.VideoFrame.from_ndarray(np.pad(pixels, room, mode="edge"), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
