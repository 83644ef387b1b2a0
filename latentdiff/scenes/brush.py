"""The painter's tools: smooth shapes on a float picture, in a space of 128 × 128 units.

Colours are float32 RGB in [0, 1] (sRGB values, blended as they are); x runs right and y down, both
in units, so that a place looks the same at every picture size. Every shape has soft edges: there
is no second, larger canvas to shrink.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Float = NDArray[np.float32]
Color = str | Float

UNITS = 128.0
_SUPERSAMPLE = 4


@lru_cache(maxsize=4096)
def _hex(color: str) -> Float:
    digits = color.lstrip("#")
    values: Float = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)], np.float32)
    values.setflags(write=False)
    return values


def rgb(color: Color) -> Float:
    """A colour as float32 (3,): from "#rrggbb", or passed through."""
    return _hex(color) if isinstance(color, str) else color


def mix(a: Color, b: Color, amount: float) -> Float:
    """a at amount 0, b at amount 1."""
    return rgb(a) + (rgb(b) - rgb(a)) * np.float32(amount)


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Float, Float]:
    line = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(UNITS / size)
    return line[None, :], line[:, None]


def wave(
    x: Float, draw: np.random.Generator, amplitude: float, wavelength: float, octaves: int = 2
) -> Float:
    """A smooth random line over x: sines of falling size with random phases, mean near 0."""
    total = np.zeros_like(x)
    for octave in range(octaves):
        phase = draw.uniform(0, 2 * np.pi)
        stretch = draw.uniform(0.8, 1.25)
        frequency = 2 * np.pi * 1.9**octave * stretch / wavelength
        total += np.float32(amplitude * 0.5**octave) * np.sin(
            np.float32(frequency) * x + np.float32(phase)
        )
    return total


class Canvas:
    """A picture being painted. `pixels` is float32 (size, size, 3)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.per_unit = size / UNITS
        self.x, self.y = _grid(size)
        self.pixels: Float = np.zeros((size, size, 3), np.float32)

    def window(
        self, x0: float, y0: float, x1: float, y1: float
    ) -> tuple[slice, slice, Float, Float] | None:
        """Row slice, column slice, and the grids of the pixels inside; None when there are none."""
        k, size = self.per_unit, self.size
        left, right = max(0, int(x0 * k)), min(size, int(x1 * k) + 1)
        top, bottom = max(0, int(y0 * k)), min(size, int(y1 * k) + 1)
        if left >= right or top >= bottom:
            return None
        rows, columns = slice(top, bottom), slice(left, right)
        return rows, columns, self.x[:, columns], self.y[rows]

    def sky(self, *stops: tuple[float, Color]) -> None:
        """Fill everything with a vertical gradient through (y, colour) stops, y ascending."""
        heights = [y for y, _ in stops]
        colors = np.stack([rgb(c) for _, c in stops])
        column = self.y[:, 0]
        for channel in range(3):
            self.pixels[:, :, channel] = np.interp(column, heights, colors[:, channel])[:, None]

    def blend(self, mask: Float, color: Color, rows: slice = slice(None)) -> None:
        """Mix a colour in by a mask in [0, 1] that spans the given rows."""
        part = self.pixels[rows]
        part += mask[..., None] * (rgb(color) - part)

    def ridge(self, heights: Float, top: Color, bottom: Color, depth: float = 60.0) -> None:
        """Fill all below the line y = heights (size,), from `top` to `bottom` over `depth`."""
        first = max(0, int((float(heights.min()) - 2) * self.per_unit))
        rows = slice(first, None)
        below = self.y[rows] - heights[None, :]
        mask = np.clip(below * np.float32(self.per_unit) + np.float32(0.5), 0, 1)
        amount = np.clip(below * np.float32(1 / depth), 0, 1)
        color = rgb(top) + amount[..., None] * (rgb(bottom) - rgb(top))
        part = self.pixels[rows]
        part += mask[..., None] * (color - part)

    def ellipse(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        color: Color,
        alpha: float = 1.0,
        soft: float = 0.0,
    ) -> None:
        """A filled ellipse; `soft` (0 … 1) is the share of its radius over which it fades out."""
        where = self.window(cx - rx - 1, cy - ry - 1, cx + rx + 1, cy + ry + 1)
        if where is None:
            return
        rows, columns, x, y = where
        radius = np.sqrt(((x - cx) / np.float32(rx)) ** 2 + ((y - cy) / np.float32(ry)) ** 2)
        edge = max(soft, 1.0 / (min(rx, ry) * self.per_unit))
        mask = np.clip((1 + min(edge, 1.0) * 0.5 * (soft == 0) - radius) / np.float32(edge), 0, 1)
        if soft:
            mask = mask * mask * (3 - 2 * mask)
        part = self.pixels[rows, columns]
        part += (mask * np.float32(alpha))[..., None] * (rgb(color) - part)

    def disc(self, cx: float, cy: float, r: float, color: Color, alpha: float = 1.0) -> None:
        """A filled circle with an antialiased edge."""
        self.ellipse(cx, cy, r, r, color, alpha)

    def glow(self, cx: float, cy: float, r: float, color: Color, strength: float) -> None:
        """Light that falls off smoothly to nothing at radius r; it only brightens."""
        where = self.window(cx - r, cy - r, cx + r, cy + r)
        if where is None:
            return
        rows, columns, x, y = where
        square = ((x - cx) ** 2 + (y - cy) ** 2) * np.float32(1 / r**2)
        mask = np.clip(1 - square, 0, 1) ** 2 * np.float32(strength)
        part = self.pixels[rows, columns]
        part += mask[..., None] * rgb(color) * (1 - part)

    def stroke(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        width: float,
        color: Color,
        alpha: float = 1.0,
        soft: float = 0.0,
    ) -> None:
        """A straight line with round ends; `soft` widens its edge by so many units."""
        half = width / 2
        reach = half + soft + 1
        where = self.window(
            min(x0, x1) - reach, min(y0, y1) - reach, max(x0, x1) + reach, max(y0, y1) + reach
        )
        if where is None:
            return
        rows, columns, x, y = where
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(
            ((x - x0) * np.float32(dx) + (y - y0) * np.float32(dy))
            / np.float32(dx * dx + dy * dy + 1e-6),
            0,
            1,
        )
        distance = np.hypot(x - x0 - along * np.float32(dx), y - y0 - along * np.float32(dy))
        edge = 1 / self.per_unit + soft
        mask = np.clip((half + edge / 2 - distance) / np.float32(edge), 0, 1)
        part = self.pixels[rows, columns]
        part += (mask * np.float32(alpha))[..., None] * (rgb(color) - part)

    def stamp(
        self,
        picture: Float,
        cx: float,
        bottom: float,
        haze: Color = "#ffffff",
        amount: float = 0.0,
        alpha: float = 1.0,
    ) -> None:
        """Lay a premultiplied RGBA picture (h, w, 4), its foot's middle at (cx, bottom).

        `amount` of `haze` colour is mixed in, as air does to what is far away.
        """
        h, w = picture.shape[:2]
        left = round(cx * self.per_unit - w / 2)
        top = round(bottom * self.per_unit) - h
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(self.size, left + w), min(self.size, top + h)
        if x0 >= x1 or y0 >= y1:
            return
        cut = picture[y0 - top : y1 - top, x0 - left : x1 - left]
        color, cover = cut[..., :3], cut[..., 3:]
        if amount:
            color = color + np.float32(amount) * (rgb(haze) * cover - color)
        part = self.pixels[y0:y1, x0:x1]
        part *= 1 - np.float32(alpha) * cover
        part += np.float32(alpha) * color

    def mottle(self, draw: np.random.Generator, cells: tuple[int, int]) -> Float:
        """Smooth noise (size, size), mean near 0 and within about ±1, `cells` (across, down)."""
        small = draw.uniform(-1, 1, (cells[1], cells[0])).astype(np.float32)
        large = Image.fromarray(small).resize((self.size, self.size), Image.Resampling.BICUBIC)
        return np.asarray(large)


Painter = Callable[[ImageDraw.ImageDraw, float], None]


def make_stamp(size: int, width: float, height: float, paint: Painter) -> Float:
    """A premultiplied RGBA picture for `Canvas.stamp`, `width` × `height` units.

    paint(pen, k) draws with PIL, k pixels to a unit, on a large transparent sheet that is then
    shrunk.
    """
    k = size / UNITS
    w, h = max(1, round(width * k)), max(1, round(height * k))
    sheet = Image.new("RGBA", (w * _SUPERSAMPLE, h * _SUPERSAMPLE), (0, 0, 0, 0))
    paint(ImageDraw.Draw(sheet), k * _SUPERSAMPLE)
    shrunk = sheet.convert("RGBa").resize((w, h), Image.Resampling.BOX)
    stamp = np.asarray(shrunk, np.float32) / np.float32(255)
    stamp.setflags(write=False)
    return stamp


def ink(color: Color, alpha: float = 1.0) -> tuple[int, int, int, int]:
    """A colour for PIL's pen."""
    r, g, b = (round(float(v) * 255) for v in rgb(color))
    return (r, g, b, round(alpha * 255))


def choose(draw: np.random.Generator, options: Sequence[Color]) -> Color:
    """One of the options, each as likely."""
    return options[int(draw.integers(len(options)))]
