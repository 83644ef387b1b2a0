"""Contact sheets: many pictures at one glance, bare or with labels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

AnyPicture = Image.Image | NDArray[np.uint8]
"""PIL, or uint8 (h, w, 3)."""

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf")
"""Common ones, by the names that Pillow looks for in the system's folders."""
GROUND = (244, 244, 244)
PAPER = (250, 250, 248)
INK = (40, 40, 44)
RIGHT = (22, 120, 60)
WRONG = (190, 40, 40)
_FONT_SIZE = 10
_LINES = 3
_MARGIN = 6


def contact_sheet(
    pictures: Sequence[AnyPicture],
    columns: int | None = None,
    gap: int = 4,
    *,
    margin: int | None = None,
    ground: tuple[int, int, int] = GROUND,
) -> Image.Image:
    """Pictures of one size in rows of `columns`; as near to a square as they go when None.

    gap: pixels between them; margin: around them all, as wide as the gap by default.
    """
    images = [as_image(picture) for picture in pictures]
    if columns is None:
        columns = max(1, math.ceil(math.sqrt(len(images))))
    edge = gap if margin is None else margin
    width, height = images[0].size
    rows = -(-len(images) // columns)
    size = (columns * (width + gap) - gap + 2 * edge, rows * (height + gap) - gap + 2 * edge)
    sheet = Image.new("RGB", size, ground)
    for image, box in zip(
        images, boxes(len(images), (width, height), columns, gap, edge), strict=True
    ):
        sheet.paste(image, box[:2])
    return sheet


def boxes(
    count: int, size: tuple[int, int], columns: int, gap: int, margin: int
) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of each of `count` pictures on a contact sheet; size: of one."""
    width, height = size
    places = [divmod(k, columns) for k in range(count)]
    corners = [(margin + c * (width + gap), margin + r * (height + gap)) for r, c in places]
    return [(x, y, x + width, y + height) for x, y in corners]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture of a sheet; `right` frames and colours it green, False red, None neither."""

    picture: AnyPicture
    label: str
    right: bool | None = None


def labelled_sheet(
    cells: Sequence[Cell], *, columns: int = 8, size: int = 128, font_size: int = _FONT_SIZE
) -> Image.Image:
    """The pictures in reading order, each over its label; labels wrap on up to three lines."""
    font = font_for([cell.label for cell in cells], font_size)
    line = font_size + 2
    width, height = size + 2 * _MARGIN, size + 2 * _MARGIN + _LINES * line
    columns = max(1, min(columns, len(cells)))
    rows = max(1, math.ceil(len(cells) / columns))
    sheet = Image.new("RGB", (columns * width, rows * height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for n, cell in enumerate(cells):
        x, y = n % columns * width + _MARGIN, n // columns * height + _MARGIN
        image = as_image(cell.picture).convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        colour = INK if cell.right is None else RIGHT if cell.right else WRONG
        if cell.right is not None:
            draw.rectangle((x - 2, y - 2, x + size + 1, y + size + 1), outline=colour, width=2)
        sheet.paste(image, (x, y))
        for k, text in enumerate(wrap(cell.label, font, size)[:_LINES]):
            draw.text((x, y + size + 3 + k * line), text, fill=colour, font=font)
    return sheet


def axes_sheet(
    pictures: Sequence[AnyPicture], columns: Sequence[str], rows: Sequence[str] = ("",)
) -> Image.Image:
    """Pictures row by row under the names of their columns and beside those of their rows.

    Each keeps its size; what is smaller than the largest stands in the middle of its place.
    """
    images = [as_image(picture).convert("RGB") for picture in pictures]
    assert len(images) == len(columns) * len(rows), (len(images), len(columns), len(rows))
    font = font_for([*columns, *rows], _FONT_SIZE + 4)
    line = _FONT_SIZE + 6
    width, height = max(i.width for i in images), max(i.height for i in images)
    heads = [wrap(text, font, width) for text in columns]
    sides = [wrap(text, font, max(96, width // 2)) for text in rows]
    top = _MARGIN + line * max(1, *(len(head) for head in heads))
    left = _MARGIN + math.ceil(max((font.getlength(t) for side in sides for t in side), default=0))
    left += _MARGIN if any(rows) else 0
    size = (left + len(columns) * (width + _MARGIN), top + len(rows) * (height + _MARGIN))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for k, image in enumerate(images):
        row, column = divmod(k, len(columns))
        x, y = left + column * (width + _MARGIN), top + row * (height + _MARGIN)
        sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
    for column, head in enumerate(heads):
        for n, text in enumerate(head):
            x = left + column * (width + _MARGIN)
            draw.text((x, _MARGIN // 2 + n * line), text, fill=INK, font=font)
    for row, side in enumerate(sides):
        for n, text in enumerate(side):
            draw.text((_MARGIN, top + row * (height + _MARGIN) + n * line), text, INK, font)
    return sheet


def font_for(texts: Sequence[str], size: int) -> Font:
    """Pillow's own font, which knows ASCII alone; for other letters the first of the system's fonts
    that is found, and Pillow's own again where none is."""
    if not all(text.isascii() for text in texts):
        for name in SYSTEM_FONTS:
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def wrap(text: str, font: Font, width: float) -> list[str]:
    """`text` in lines of at most `width` pixels, broken at spaces where that is possible, and where
    it breaks itself."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        begin = len(lines)
        for word in paragraph.split():
            if len(lines) > begin and font.getlength(f"{lines[-1]} {word}") <= width:
                lines[-1] = f"{lines[-1]} {word}"
            else:
                lines.append(word)
    return lines


def as_image(picture: AnyPicture) -> Image.Image:
    """The picture as PIL's."""
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
