"""Pictures drawn again from their recipes, and what differs from the first time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from PIL import Image

import latentdiff.pipelines.sweep as sweep
from latentdiff import devices
from latentdiff.errors import UserError
from latentdiff.pipelines.recipes.picture_file import pixels_sha256
from latentdiff.pipelines.recipes.recipe import Recipe
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.text_to_image import TextToImagePipeline
from latentdiff.pipelines.walk.batch import Picture
from latentdiff.sheet import axes_sheet, contact_sheet

DRAWN_BY = (
    *("request", "weights_sha256", "settings_sha256", "loras", "embeddings"),
    *("dtype", "device", "backend", "processor", "instruction_set", "versions"),
)
"""Fields of a recipe that decide a picture, besides how many threads drew how many at once."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two pictures of one size: whether every bit is equal, the PSNR in dB (infinite then), the
    share of pixels that differ, and by how many of 255 levels at most."""

    equal: bool
    psnr: float
    share: float
    largest: int

    def __str__(self) -> str:
        if self.equal:
            return "bit-equal"
        return (
            f"PSNR {self.psnr:.2f} dB: {self.share:.2%} of the pixels differ, "
            f"by {self.largest} of 255 levels at most"
        )


def compare(one: Image.Image, other: Image.Image) -> Comparison:
    """How much two RGB pictures differ; UserError when they have different sizes."""
    if one.size != other.size:
        raise UserError(
            f"one picture has {one.width} x {one.height} pixels, the other {other.width} x "
            f"{other.height}: they cannot be compared"
        )
    left, right = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (one, other))
    error = np.abs(left - right)
    mean_square = float((error.astype(np.float64) ** 2).mean())
    return Comparison(
        equal=not error.any(),
        psnr=10 * math.log10(255**2 / mean_square) if mean_square else math.inf,
        share=float(error.any(axis=2).mean()),
        largest=int(error.max()),
    )


def changed(request: Request, settings: Sequence[str]) -> Request:
    """A request with `key=value` settings in it; UserError for an unknown key or a bad value.

    Keys are fields, with dots inside records (`source.strength`), or the options' names for them.
    Values are read as YAML where the field wants that, else as text. A new prompt makes its
    choices anew.
    """
    for setting in settings:
        name, equals, written = setting.partition("=")
        name = name.strip().replace("-", "_")
        name = sweep.SHORT.get(name, name)
        if not equals:
            raise UserError(f"--set {setting} holds no value; expected KEY=VALUE, such as steps=20")
        if "." in name:
            request = sweep.with_value(request, sweep.Axis(name, name, (written,)), written)
            continue
        try:
            value = yaml.safe_load(written)
        except yaml.YAMLError:
            value = written
        table = request.to_json()
        if name == "prompt":
            table["template"] = None
        try:
            request = Request.from_json({**table, name: value})
        except UserError as error:
            if value == written or name not in table:
                raise
            try:
                request = Request.from_json({**table, name: written})
            except UserError:
                raise error from None
    return request


def redraw(
    pipeline: TextToImagePipeline, recipes: Sequence[Recipe], *, as_batch: bool = False
) -> list[Picture]:
    """The pictures of recipes again, one or those of a grid.

    as_batch: a single one in a batch as large as its first was, for the last bits.
    """
    requests = [recipe.request for recipe in recipes]
    size = max(1, recipes[0].batch_size)
    if len(requests) == 1:
        requests *= size if as_batch else 1
    return list(pipeline.draw(requests, batch_size=size))[: len(recipes)]


def as_drawn(pipeline: TextToImagePipeline, recipes: Sequence[Recipe]) -> list[Picture]:
    """The pictures of recipes bit by bit as they were, where this machine can draw them so.

    Drawn alone first; where only the batch or the number of threads was another, then with those.
    """
    then, drawn = recipes[0], redraw(pipeline, recipes)
    again = together(drawn, then.sheet)
    if pixels_sha256(again) == then.pixels_sha256 or not _drawn_otherwise(then, drawn[0].recipe):
        return drawn
    with devices.threads(then.threads):
        return redraw(pipeline, recipes, as_batch=True)


def together(pictures: Sequence[Picture], layout: Mapping[str, Any]) -> Image.Image:
    """One picture as it is, several as the grid that they were: `Recipe.sheet`."""
    images = [picture.image for picture in pictures]
    columns, rows = layout.get("columns"), layout.get("rows", [""])
    if isinstance(columns, list) and isinstance(rows, list):
        if len(columns) * len(rows) != len(images):
            raise UserError(
                f"a sheet of {len(columns)} x {len(rows)} holds no {len(images)} pictures"
            )
        return axes_sheet(images, [str(name) for name in columns], [str(name) for name in rows])
    if len(images) == 1:
        return images[0]
    count = columns if isinstance(columns, int) and columns > 0 else None
    return contact_sheet(images, count, margin=0, ground=(255, 255, 255))


def differences(then: Recipe, now: Recipe) -> list[str]:
    """What is other than when a picture was drawn, a line each."""
    lines = [
        f"{part}: {what} {_short(before.get(part))} then, {_short(digest)} now"
        for what, before, after in (
            ("weights", then.weights_sha256, now.weights_sha256),
            ("settings", then.settings_sha256, now.settings_sha256),
        )
        for part, digest in after.items()
        if before.get(part) != digest and (before or what == "weights")
    ]
    for name, told in (("LoRAs", _loras), ("embeddings", _embeddings)):
        if told(then) != told(now):
            lines.append(f"{name}: {told(then) or 'none'} then, {told(now) or 'none'} now")
    for name in ("dtype", "device", "processor", "instruction_set", "threads"):
        before, after = getattr(then, name), getattr(now, name)
        if before != after:
            lines.append(f"{name.replace('_', ' ')}: {before or 'not known'} then, {after} now")
    for package, after in now.versions.items():
        before = then.versions.get(package, "not known")
        if before != after:
            lines.append(f"{package}: {before} then, {after} now")
    return lines


def _drawn_otherwise(then: Recipe, now: Recipe) -> bool:
    """Whether the batch or the threads were others, which this machine can have too, and nothing
    else."""
    same = all(getattr(then, name) == getattr(now, name) for name in DRAWN_BY)
    counts = ("threads", "batch_size")
    return same and any(getattr(then, n) not in (0, getattr(now, n)) for n in counts)


def _loras(recipe: Recipe) -> str:
    return ", ".join(
        ":".join(
            [
                _short(str(lora.get("sha256", ""))),
                str(lora.get("scale")),
                *(f"{k}={v}" for k, v in dict(lora.get("blocks") or {}).items()),
            ]
        )
        for lora in recipe.loras
    )


def _embeddings(recipe: Recipe) -> str:
    return ", ".join(
        f"{word.get('token')} {_short(str(word.get('sha256', '')))}" for word in recipe.embeddings
    )


def _short(digest: str | None) -> str:
    return digest[:10] if digest else "not known"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a file's picture is drawn again; lines: what to tell, the answer first."""

    equal: bool
    lines: tuple[str, ...]


def verify(pipeline: TextToImagePipeline, image: Image.Image, recipes: Sequence[Recipe]) -> Verdict:
    """Draw a picture again and hold it against the file's pixels, or against the hash of those
    that were drawn, which a file of lossy format keeps though it lost them."""
    then = recipes[0]
    drawn = as_drawn(pipeline, recipes)
    again = together(drawn, then.sheet)
    found = compare(image, again)
    same_as_drawn = pixels_sha256(again) == then.pixels_sha256
    altered = bool(then.pixels_sha256) and then.pixels_sha256 != pixels_sha256(image)
    other = "the file holds other pixels than were drawn: it was changed, or saved as JPEG"
    lines = [str(found)]
    if same_as_drawn and not found.equal:
        lines = [f"bit-equal to what was drawn; against the file: {found}", other]
    elif not found.equal:
        lines += [other] if altered else []
        lines += differences(then, drawn[0].recipe) or ["nothing that a recipe keeps differs"]
    return Verdict(equal=found.equal or same_as_drawn, lines=tuple(lines))
