"""Small things that the places are furnished with: trees, clouds, houses, corals.

Each is painted once a process for each (picture size, kind, variant), and then only laid down.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import ImageDraw

from latentdiff.scenes.brush import Float, ink, make_stamp, mix

VARIANTS = 6
"""How many shapes of one kind there are."""


def _draw(kind: str, variant: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=sum(map(ord, kind)) * 1009 + variant))


@lru_cache(maxsize=512)
def pine(size: int, variant: int, height: int, snowy: bool) -> Float:
    """A fir of three skirts, lit from the left; with snow on its skirts if `snowy`."""
    draw = _draw("pine", variant)
    width = height * draw.uniform(0.5, 0.62)
    green = mix("#2f7d5b", "#3f8f52", draw.uniform())
    dark = mix(green, "#123a4a", 0.45)

    def paint(pen: ImageDraw.ImageDraw, k: float) -> None:
        w, h = width * k, height * k
        pen.rectangle([w * 0.43, h * 0.8, w * 0.57, h], fill=ink("#6b4a3a"))
        for level in (2, 1, 0):
            top, foot = h * (0.0 + 0.22 * level), h * (0.42 + 0.23 * level)
            half = w * (0.28 + 0.105 * level)
            pen.polygon([(w / 2, top), (w / 2 - half, foot), (w / 2 + half, foot)], fill=ink(green))
            pen.polygon([(w / 2, top), (w / 2 + half, foot), (w / 2, foot)], fill=ink(dark))
            if snowy:
                cap = top + (foot - top) * 0.5
                reach = half * 0.52
                pen.polygon(
                    [
                        (w / 2, top),
                        (w / 2 - reach, cap),
                        (w / 2 - reach * 0.4, cap + h * 0.05),
                        (w / 2, cap - h * 0.01),
                        (w / 2 + reach * 0.5, cap + h * 0.05),
                        (w / 2 + reach, cap),
                    ],
                    fill=ink("#f4f9ff"),
                )

    return make_stamp(size, width, height, paint)


@lru_cache(maxsize=512)
def round_tree(size: int, variant: int, height: int, leaf: str) -> Float:
    """A broad-leaved tree with a crown of overlapping balls."""
    draw = _draw("round" + leaf, variant)
    width = height * draw.uniform(0.72, 0.86)
    balls = [
        (0.5 + dx * 0.21, 0.4 + dy * 0.15, draw.uniform(0.21, 0.26))
        for dx, dy in ((-1, 0.5), (1, 0.45), (-0.6, -0.5), (0.65, -0.4), (0, 0.1), (0, -0.9))
    ]

    def paint(pen: ImageDraw.ImageDraw, k: float) -> None:
        w, h = width * k, height * k
        pen.polygon(
            [(w * 0.44, h), (w * 0.47, h * 0.5), (w * 0.54, h * 0.5), (w * 0.57, h)],
            fill=ink("#6d4a3c"),
        )
        for shift, shade in ((0.03, mix(leaf, "#4a2440", 0.3)), (0.0, mix(leaf, leaf, 0))):
            for x, y, r in balls:
                cx, cy, rr = x * w + shift * w, y * h + shift * h * 1.4, r * w * 1.02
                pen.ellipse([cx - rr, cy - rr, cx + rr, cy + rr], fill=ink(shade))
        light = mix(leaf, "#fff3b0", 0.35)
        for x, y, r in balls:
            cx, cy, rr = x * w - r * w * 0.3, y * h - r * w * 0.35, r * w * 0.5
            pen.ellipse([cx - rr, cy - rr, cx + rr, cy + rr], fill=ink(light))

    return make_stamp(size, width, height, paint)


@lru_cache(maxsize=512)
def cloud(size: int, variant: int, width: int, body: str, shade: str) -> Float:
    """A heap cloud with a flat foot and a shaded belly."""
    draw = _draw("cloud", variant)
    height = width * draw.uniform(0.5, 0.56)
    count = 5
    balls = []
    for i in range(count):
        x = 0.16 + 0.68 * i / (count - 1) + draw.uniform(-0.03, 0.03)
        r = (0.1 + 0.13 * np.sin(np.pi * (i + 0.5) / count)) * draw.uniform(0.88, 1.08)
        balls.append((x, r))

    def paint(pen: ImageDraw.ImageDraw, k: float) -> None:
        w, h = width * k, height * k
        for lift, color in ((0.0, shade), (0.07, body)):
            foot = h * (0.98 - lift * 1.2)
            for x, r in balls:
                rr, cx = r * w, x * w
                cy = foot - rr * 0.85 - lift * h * 0.3
                pen.ellipse([cx - rr, cy - rr, cx + rr, min(cy + rr, foot)], fill=ink(color))
            pen.rounded_rectangle(
                [w * 0.05, foot - h * 0.26, w * 0.95, foot], radius=h * 0.13, fill=ink(color)
            )

    return make_stamp(size, width, height, paint)


_FACADES = ("#f2b5a7", "#f6d6a8", "#a9cfd8", "#b9c4ea", "#e8b9cf", "#cfe0c3", "#d8c7e8", "#f3e2c9")


@lru_cache(maxsize=512)
def tower(size: int, variant: int, width: int, height: int, far: bool) -> Float:
    """A town house or office block with big windows; paler and plainer when `far`."""
    draw = _draw(f"tower{width}{height}", variant)
    wall = _FACADES[int(draw.integers(len(_FACADES)))]
    glass = "#fff4c2" if draw.random() < 0.35 else "#7fb2d9"
    roof = int(draw.integers(3))

    def paint(pen: ImageDraw.ImageDraw, k: float) -> None:
        w, h = width * k, height * k
        top = 5 * k if roof else 0.0
        if roof == 1:
            pen.polygon([(0, top), (w * 0.5, 0), (w, top)], fill=ink(mix(wall, "#9c4a52", 0.6)))
        elif roof == 2:
            pen.rectangle([w * 0.25, 0, w * 0.75, top], fill=ink(mix(wall, "#6a5a8a", 0.35)))
        pen.rectangle([0, top, w, h], fill=ink(wall))
        pen.rectangle([w * 0.72, top, w, h], fill=ink(mix(wall, "#5b5f8f", 0.18)))
        if far:
            return
        columns = max(2, round(width / 8))
        pitch = w / columns
        y = top + 4 * k
        while y < h - 6 * k:
            for column in range(columns):
                x = (column + 0.5) * pitch
                pen.rounded_rectangle(
                    [x - 1.9 * k, y, x + 1.9 * k, y + 4.6 * k],
                    radius=0.8 * k,
                    fill=ink(mix(glass, "#ffffff", 0.15 * (column % 2))),
                )
            y += 8.6 * k

    return make_stamp(size, width, height, paint)


@lru_cache(maxsize=256)
def coral(size: int, variant: int, height: int, color: str) -> Float:
    """A branching coral with round tips."""
    draw = _draw("coral", variant)
    width = height * 1.1
    arms = [(a + draw.uniform(-6, 6), draw.uniform(0.75, 1.0)) for a in (-42, -16, 12, 40)]

    def paint(pen: ImageDraw.ImageDraw, k: float) -> None:
        w, h = width * k, height * k
        thick = 4.2 * k
        for angle, length in arms:
            dx, dy = np.sin(np.radians(angle)), -np.cos(np.radians(angle))
            x0, y0 = w / 2, h
            x1, y1 = x0 + dx * h * 0.88 * length, y0 + dy * h * 0.88 * length
            pen.line([(x0, y0), (x1, y1)], fill=ink(color), width=round(thick))
            r = thick * 0.62
            pen.ellipse([x1 - r, y1 - r, x1 + r, y1 + r], fill=ink(mix(color, "#fff0e0", 0.4)))

    return make_stamp(size, width, height, paint)


@lru_cache(maxsize=256)
def leaf(size: int, variant: int, color: str) -> Float:
    """A fallen leaf of about 7 units, turned by its variant."""
    turn = variant * np.pi / VARIANTS * 2 + 0.4

    def paint(pen: ImageDraw.ImageDraw, k: float) -> None:
        c, s = np.cos(turn), np.sin(turn)
        steps = np.linspace(0, 2 * np.pi, 24)
        along, across = 3.5 * np.cos(steps), 1.9 * np.sin(steps) * (1 - 0.25 * np.cos(steps))
        points = [
            ((4 + a * c - b * s) * k, (4 + a * s + b * c) * k)
            for a, b in zip(along, across, strict=True)
        ]
        pen.polygon(points, fill=ink(color))

    return make_stamp(size, 8, 8, paint)


@lru_cache(maxsize=256)
def flower(size: int, petal: str, heart: str, radius: float) -> Float:
    """A flower of five round petals seen from the front."""
    side = radius * 3.2

    def paint(pen: ImageDraw.ImageDraw, k: float) -> None:
        m, r = side / 2 * k, radius * k
        for i in range(5):
            a = 2 * np.pi * i / 5 - np.pi / 2
            x, y, p = m + np.cos(a) * r * 0.85, m + np.sin(a) * r * 0.85, r * 0.72
            pen.ellipse([x - p, y - p, x + p, y + p], fill=ink(petal))
        pen.ellipse([m - r * 0.55, m - r * 0.55, m + r * 0.55, m + r * 0.55], fill=ink(heart))

    return make_stamp(size, side, side, paint)


@lru_cache(maxsize=256)
def tuft(size: int, variant: int, height: int, color: str) -> Float:
    """A tuft of broad grass blades."""
    draw = _draw("tuft", variant)
    width = height * 1.3
    leans = [lean + draw.uniform(-0.08, 0.08) for lean in (-0.38, -0.18, 0.02, 0.22, 0.4)]

    def paint(pen: ImageDraw.ImageDraw, k: float) -> None:
        w, h = width * k, height * k
        for i, lean in enumerate(leans):
            tip = h * (0.05 + abs(lean) * 0.7)
            shade = mix(color, "#ffffc0", 0.12 * (i % 2))
            pen.polygon(
                [
                    (w * (0.5 + lean * 0.35) - 1.4 * k, h),
                    (w * (0.5 + lean), tip),
                    (w * (0.5 + lean * 0.35) + 1.4 * k, h),
                ],
                fill=ink(shade),
            )

    return make_stamp(size, width, height, paint)


@lru_cache(maxsize=64)
def planet(size: int, variant: int, radius: int) -> Float:
    """A shaded ball with bands, every other one with a ring."""
    colors = (
        ("#f2a65a", "#c65b7c"),
        ("#7fd1c7", "#3a6fb0"),
        ("#e58fb0", "#7a4fa3"),
        ("#f4d58d", "#d9775f"),
        ("#9db4ff", "#5b54b8"),
        ("#d7e3ef", "#8c93b8"),
    )
    light, dark = colors[variant % len(colors)]
    ringed = variant % 2 == 0
    side = radius * (3.4 if ringed else 2.1)

    def paint(pen: ImageDraw.ImageDraw, k: float) -> None:
        m, r = side / 2 * k, radius * k
        ring = [m - r * 1.65, m - r * 0.42, m + r * 1.65, m + r * 0.42]
        thick = round(max(2.2 * k, r * 0.17))
        tone = ink(mix(light, "#fff3d6", 0.5))
        if ringed:
            pen.arc(ring, 180, 360, fill=tone, width=thick)
        for i in range(24):
            part = i / 23
            rr = r * (1 - 0.7 * part)
            x, y = m - r * 0.28 * part, m - r * 0.3 * part
            pen.ellipse([x - rr, y - rr, x + rr, y + rr], fill=ink(mix(dark, light, part**0.8)))
        if ringed:
            pen.arc(ring, 0, 180, fill=tone, width=thick)

    return make_stamp(size, side, side, paint)
