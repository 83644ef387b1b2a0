"""Pictures that a request starts from: read safely, brought to size, and put back together."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from latentdiff.data.decode.decoding import decode
from latentdiff.data.decode.regular import read_regular
from latentdiff.data.records import BadPicture
from latentdiff.data.transforms import source_box
from latentdiff.errors import UserError
from latentdiff.models.geometry import Geometry
from latentdiff.pipelines.request import Given, Request
from latentdiff.pipelines.request_records import Inpaint, Resize

Size = tuple[int, int]
"""(width, height) in pixels, as PIL has it."""
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""


@dataclass(frozen=True)
class Read:
    """image: 8-bit sRGB, upright. sha256: of the file, "" for one given in Python."""

    image: Image.Image
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """A source picture as it is drawn over.

    whole: the picture that comes out, before anything is painted. drawn: the part that the model
    draws, at the size it draws. box: where that part lies in `whole`. size: of the part inside
    `drawn`, whose right and lower rest only fills it up to what the model can draw. alpha: mode L
    like `whole`, how much the painted covers the picture's own; None when the whole is painted.
    """

    whole: Image.Image
    drawn: Image.Image
    box: Box
    size: Size
    alpha: Image.Image | None = None

    def cells(self, factor: int) -> Tensor:
        """(1, h, w) float32, 1 for every latent cell that covers a pixel to repaint, else 0."""
        assert self.alpha is not None, "nothing is repainted in parts"
        part = self.alpha.crop(self.box)
        touched = part.point(lambda level: 255 if level else 0)
        mask = Image.new("L", self.drawn.size)
        mask.paste(touched.resize(self.size, Image.Resampling.BOX), (0, 0))
        levels = torch.from_numpy(np.array(mask))[None].float()
        return (torch.nn.functional.max_pool2d(levels, factor) > 0).float()

    def paste(self, painted: Image.Image) -> Image.Image:
        """The whole picture with what was painted in its place; black of alpha stays bit-equal."""
        if self.alpha is None:
            return painted
        left, top, right, bottom = self.box
        part = painted.crop((0, 0, *self.size))
        if part.size != (right - left, bottom - top):
            part = part.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        layer = self.whole.copy()
        layer.paste(part, (left, top))
        return Image.composite(layer, self.whole, self.alpha)


def read_image(path: str | Path, what: str = "picture") -> Read:
    """The picture in a file, and the file's hash; UserError when it cannot be used."""
    place = Path(path).expanduser()
    try:
        state = place.stat()
        return _read(place.absolute(), state.st_mtime_ns, state.st_size)
    except FileNotFoundError:
        raise UserError(f"there is no {what} at {path}") from None
    except (OSError, BadPicture) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the {what} {path} cannot be used: {reason}") from error


@functools.lru_cache(maxsize=8)
def _read(path: Path, mtime_ns: int, size: int) -> Read:
    data = read_regular(path)
    return Read(decode(data, allow_gif_tiff=True).image, hashlib.sha256(data).hexdigest())


def image_of(request: Request) -> Read:
    """A request's source picture; UserError when it is missing or not the one of the recipe."""
    source, given = request.source, request.given or Given()
    assert source is not None
    if given.image is not None:
        if source.image:
            raise UserError(f"a picture was given twice, in Python and as {source.image}; give one")
        return Read(given.image.convert("RGB"), "")
    if not source.image:
        raise UserError("no picture to start from was given; name a file or give one in Python")
    read = read_image(source.image)
    _same(source.image, source.image_sha256, read.sha256)
    return read


def mask_of(request: Request) -> Read | None:
    """A request's mask in mode L, None where only `expand` is repainted; UserError without any."""
    assert request.source is not None and request.source.inpaint is not None
    inpaint, given = request.source.inpaint, request.given or Given()
    if given.mask is not None:
        if inpaint.mask:
            raise UserError(f"a mask was given twice, in Python and as {inpaint.mask}; give one")
        return Read(given.mask.convert("L"), "")
    if inpaint.mask:
        read = read_image(inpaint.mask, "mask")
        _same(inpaint.mask, inpaint.mask_sha256, read.sha256)
        return Read(read.image.convert("L"), read.sha256)
    if not any(inpaint.expand):
        raise UserError(
            "nothing says what to repaint; give a mask (white is repainted) or pixels to expand by"
        )
    return None


def _same(path: str, expected: str, found: str) -> None:
    if expected and expected != found:
        raise UserError(
            f"{path} is not the file that was drawn from: its SHA-256 is {found[:12]}…, "
            f"expected {expected[:12]}…"
        )


# Sizes


def resized(
    image: Image.Image,
    size: Size,
    rule: Resize,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """The picture at this size: covering it and cut evenly ("fill"), or stretched.

    "fit" has chosen a size of the picture's own proportions before (`fitted`).
    """
    if image.size == size:
        return image
    box = source_box(image.size, size, (0.5, 0.5)) if rule == "fill" else None
    return image.resize(size, resample, box=box)


def fitted(size: Size, frame: Size, multiple: int, least: int) -> Size:
    """The largest size of these proportions inside a frame, sides rounded to the multiple."""
    scale = min(frame[0] / size[0], frame[1] / size[1])
    sides = (max(least, round(side * scale / multiple) * multiple) for side in size)
    width, height = sides
    return width, height


def target_size(request: Request, geometry: Geometry) -> Size:
    """The size that a request's source picture takes, before anything is added around it.

    Repainting keeps the picture's own size unless one is asked for; otherwise it is the size asked
    for, or the model's own. UserError where neither says.
    """
    source = request.source
    assert source is not None
    image = image_of(request).image
    own = geometry.own_size or (None, None)
    if source.inpaint is not None and (source.inpaint.only_masked or not request.width):
        width, height = image.size
        if request.height and not source.inpaint.only_masked:
            raise UserError("give both width and height, or neither")
        return width, height
    frame = (request.width or own[1], request.height or own[0])
    if frame[0] is None or frame[1] is None:
        raise UserError("the model does not say its size; give height and width")
    if source.resize == "fit":
        return fitted(image.size, (frame[0], frame[1]), geometry.factor, geometry.coarsest)
    return frame[0], frame[1]


def with_source(request: Request, geometry: Geometry) -> Request:
    """The request with its files' hashes, the default strength and its size filled in."""
    assert request.source is not None
    read, inpaint = image_of(request), request.source.inpaint
    mask = None if inpaint is None else mask_of(request)
    source = request.source.resolved(read.sha256, "" if mask is None else mask.sha256)
    width, height = target_size(request, geometry)
    if inpaint is not None and inpaint.only_masked:
        own = geometry.own_size or (None, None)
        if (own[0] or request.height) is None or (own[1] or request.width) is None:
            raise UserError("the model does not say its size; give height and width")
        width, height = request.width or own[1] or 0, request.height or own[0] or 0
    elif source.resize == "fit":
        source = replace(source, resize="stretch")  # the size is the fitting one now
    return replace(request, source=source, width=width, height=height)


# Canvases


def canvas_of(request: Request, geometry: Geometry) -> Canvas:
    """The picture of a resolved request, ready to be drawn over."""
    source = request.source
    assert source is not None
    image = resized(image_of(request).image, target_size(request, geometry), source.resize)
    if source.inpaint is None:
        return Canvas(whole=image, drawn=image, box=(0, 0, *image.size), size=image.size)
    return _to_repaint(image, request, source.inpaint, geometry)


def _to_repaint(
    image: Image.Image, request: Request, inpaint: Inpaint, geometry: Geometry
) -> Canvas:
    original = image_of(request).image.size
    mask = mask_of(request)
    if mask is not None and mask.image.size != original:
        raise UserError(
            f"the mask is {mask.image.width} x {mask.image.height} pixels, the picture "
            f"{original[0]} x {original[1]}; expected the same size"
        )
    assert request.source is not None
    levels = (
        Image.new("L", image.size)
        if mask is None
        else resized(mask.image, image.size, request.source.resize, Image.Resampling.BILINEAR)
    )
    whole, levels = expanded(image, inpaint.expand), _expanded_mask(levels, inpaint.expand)
    if levels.getbbox() is None:
        raise UserError("the mask is black everywhere: nothing to repaint; white is repainted")
    alpha = feathered(levels, inpaint.feather)
    if not inpaint.only_masked:
        box = (0, 0, *whole.size)
        multiple, least = geometry.factor, geometry.coarsest
        full = tuple(max(least, -(-side // multiple) * multiple) for side in whole.size)
        drawn = expanded(whole, (0, 0, full[0] - whole.width, full[1] - whole.height))
        return Canvas(whole=whole, drawn=drawn, box=box, size=whole.size, alpha=alpha)
    frame = (request.width or 0, request.height or 0)
    box = around(levels, inpaint.padding, frame)
    size = fitted((box[2] - box[0], box[3] - box[1]), frame, geometry.factor, geometry.coarsest)
    drawn = whole.resize(size, Image.Resampling.LANCZOS, box=box)
    return Canvas(whole=whole, drawn=drawn, box=box, size=size, alpha=alpha)


def expanded(image: Image.Image, by: Box) -> Image.Image:
    """The picture with its edges drawn out by this many pixels at left, top, right and bottom."""
    if not any(by):
        return image
    left, top, right, bottom = by
    pixels = np.pad(np.asarray(image), ((top, bottom), (left, right), (0, 0)), mode="edge")
    return Image.fromarray(pixels)


def _expanded_mask(mask: Image.Image, by: Box) -> Image.Image:
    left, top, right, bottom = by
    wide = Image.new("L", (mask.width + left + right, mask.height + top + bottom), 255)
    wide.paste(mask, (left, top))
    return wide


def feathered(mask: Image.Image, feather: int) -> Image.Image:
    """The mask, rising over `feather` pixels inside its edge; what is black stays black.

    A pixel at chessboard distance d from the nearest black one gets d / (feather + 1) of its level.
    The picture's border is no edge.
    """
    inside, total = mask, np.asarray(mask).astype(np.uint32)
    for _ in range(feather):
        inside = inside.filter(ImageFilter.MinFilter(3))
        total = total + np.asarray(inside)
    soft = np.ceil(total / (feather + 1)).astype(np.uint8)
    return ImageChops.darker(Image.fromarray(soft), mask)


def around(mask: Image.Image, padding: int, frame: Size) -> Box:
    """The box of a mask's white with padding, widened to the frame's proportions where there is
    room; what would reach over one side is given at the other."""
    found = mask.getbbox()
    assert found is not None
    sides = [found[2] - found[0] + 2 * padding, found[3] - found[1] + 2 * padding]
    if sides[0] * frame[1] < sides[1] * frame[0]:
        sides[0] = round(sides[1] * frame[0] / frame[1])
    else:
        sides[1] = round(sides[0] * frame[1] / frame[0])
    box = [0, 0, 0, 0]
    for axis in (0, 1):
        room = mask.size[axis]
        side = min(room, sides[axis])
        middle = (found[axis] + found[axis + 2]) / 2
        box[axis] = min(max(0, round(middle - side / 2)), room - side)
        box[axis + 2] = box[axis] + side
    return box[0], box[1], box[2], box[3]
