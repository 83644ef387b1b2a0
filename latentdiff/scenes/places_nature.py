"""Places under the open sky: snow, beach, forest, desert, meadow, mountains, autumn.

Each `paint_*` fills a canvas before the subjects are laid on it, each `front_*` adds what stands
before them. All variation comes from the draw. Nothing is finer than about 3 units.
"""

from __future__ import annotations

import numpy as np

from latentdiff.scenes import stamps
from latentdiff.scenes.brush import Canvas, Color, choose, mix, wave

Draw = np.random.Generator


def clouds(
    canvas: Canvas,
    draw: Draw,
    count: int,
    low: float,
    high: float,
    body: str = "#ffffff",
    shade: str = "#d5e4f2",
    alpha: float = 0.92,
) -> None:
    """Heap clouds with their feet between y = low and high, spread over the width."""
    for i in range(count):
        width = int(draw.integers(3, 6)) * 9
        picture = stamps.cloud(canvas.size, int(draw.integers(stamps.VARIANTS)), width, body, shade)
        x = (i + draw.uniform(0.1, 0.9)) * 128 / count
        canvas.stamp(picture, x, draw.uniform(low, high), alpha=alpha)


def paint_snow(canvas: Canvas, draw: Draw) -> None:
    """White hills under a pale sky, firs with snow on them."""
    skies: tuple[tuple[Color, Color], ...] = (
        ("#86b6e6", "#e9f1fb"),
        ("#9db7e8", "#fbe9ee"),
        ("#7fc0df", "#eef7f6"),
        ("#a9b6e2", "#fdeede"),
    )
    top, low = skies[int(draw.integers(len(skies)))]
    horizon = draw.uniform(60, 72)
    canvas.sky((0, top), (horizon + 6, low))
    if draw.random() < 0.6:
        canvas.glow(draw.uniform(16, 112), draw.uniform(10, 30), 46, "#fff6dc", 0.75)
    x = canvas.x[0]
    far = mix(low, "#8fa9d6", 0.55)
    canvas.ridge(
        horizon - 9 + wave(x, draw, 6, 85), mix(far, "#ffffff", 0.45), mix(far, "#ffffff", 0.2), 25
    )
    middle = horizon - 1 + wave(x, draw, 4, 70)
    canvas.ridge(middle, "#eef4fd", "#c9dbf2", 30)
    _row_of(canvas, draw, "pine-snow", middle, (20, 34), int(draw.integers(3, 7)), low)
    front = horizon + 15 + wave(x, draw, 3, 95)
    canvas.ridge(front, "#ffffff", "#c4d8f3", 62)
    drift = horizon + 33 + wave(x, draw, 4, 80)
    canvas.ridge(drift, "#fbfdff", "#d3e2f7", 40)
    _flakes(canvas, draw, 13)


def front_snow(canvas: Canvas, draw: Draw) -> None:
    """Big soft flakes, and a drift along the lower edge."""
    canvas.ridge(123 + wave(canvas.x[0], draw, 2.0, 60), "#ffffff", "#e3eefb", 14)
    _flakes(canvas, draw, 7)


def _flakes(canvas: Canvas, draw: Draw, count: int) -> None:
    for i in range(count):
        x = (i + draw.uniform(0, 1)) * 128 / count
        y, r = draw.uniform(0, 126), draw.uniform(2.4, 4.0)
        canvas.ellipse(x, y, r, r, "#ffffff", 0.92, soft=0.55)


def _row_of(
    canvas: Canvas,
    draw: Draw,
    kind: str,
    line: np.ndarray,
    heights: tuple[int, int],
    count: int,
    haze: Color,
    amount: float = 0.12,
    sink: float = 4,
    colors: tuple[str, ...] = (),
) -> None:
    """Trees along a line, taller ones last, more of them toward the sides."""
    for i in range(count):
        height = int(draw.integers(heights[0] // 3, heights[1] // 3 + 1)) * 3
        side = draw.uniform(0, 1) ** 1.4 * 0.5
        x = 128 * (side if i % 2 else 1 - side)
        column = int(np.clip(x * canvas.per_unit, 0, canvas.size - 1))
        variant = int(draw.integers(stamps.VARIANTS))
        if kind == "round":
            picture = stamps.round_tree(canvas.size, variant, height, str(choose(draw, colors)))
        else:
            picture = stamps.pine(canvas.size, variant, height, kind == "pine-snow")
        canvas.stamp(picture, x, float(line[column]) + sink, haze, amount)


def paint_beach(canvas: Canvas, draw: Draw) -> None:
    """Sea to the horizon, a foamy edge, warm sand, palm leaves from a corner."""
    horizon = draw.uniform(46, 58)
    shore = horizon + draw.uniform(21, 27)
    top: Color = choose(draw, ("#46b4ee", "#5cc3ef", "#58a9ea", "#6fc7e0"))
    canvas.sky((0, top), (horizon, "#d8f2f7"))
    canvas.glow(draw.uniform(10, 118), draw.uniform(8, 24), 44, "#fff3b8", 0.85)
    clouds(canvas, draw, int(draw.integers(1, 4)), horizon - 20, horizon - 4)
    x = canvas.x[0]
    flat = np.full_like(x, horizon)
    canvas.ridge(flat, "#2f9fce", "#7fe3d8", shore - horizon)
    for _ in range(4):
        cx, y = draw.uniform(0, 128), draw.uniform(horizon + 4, shore - 4)
        canvas.stroke(cx - 9, y, cx + 9, y, 1.6, "#d9fbf6", 0.55, soft=1.2)
    edge = shore + wave(x, draw, 2.2, 60)
    canvas.ridge(edge - 2.5, "#ffffff", "#f4fffb", 10)
    canvas.ridge(edge + 1.8, "#d9b27c", "#e9c98f", 9)
    sand = choose(draw, ("#f6dfa6", "#f8dcab", "#f3dcb4"))
    canvas.ridge(edge + 5.5 + wave(x, draw, 0.8, 40), sand, mix(sand, "#d99f5e", 0.55), 56)
    canvas.ridge(shore + 34 + wave(x, draw, 3, 85), mix(sand, "#ffffff", 0.3), "#eec183", 36)
    for _ in range(2):
        sx = draw.uniform(4, 34) if draw.random() < 0.5 else draw.uniform(94, 124)
        sy = draw.uniform(shore + 14, 121)
        canvas.ellipse(sx + 0.8, sy + 1.6, 4.6, 2.4, "#b98a55", 0.5, soft=0.6)
        shell: Color = choose(draw, ("#ff9d8a", "#fff1e2", "#f7b7c5", "#ffd27a"))
        canvas.ellipse(sx, sy, 4.0, 2.8, shell)
        canvas.ellipse(sx - 1, sy - 0.8, 1.9, 1.2, mix(shell, "#ffffff", 0.6), 0.9, soft=0.7)
    if draw.random() < 0.75:
        _palm_leaves(canvas, draw, left=draw.random() < 0.5)


def _palm_leaves(canvas: Canvas, draw: Draw, left: bool) -> None:
    x0, y0 = (-3.0, draw.uniform(-4, 8)) if left else (131.0, draw.uniform(-4, 8))
    way = 1 if left else -1
    for bend in (0.1, 0.55, 1.0, 1.45):
        angle = bend + draw.uniform(-0.1, 0.1)
        px, py = x0, y0
        green = mix("#2f9e5f", "#6cc25a", draw.uniform())
        for step in range(6):
            angle += 0.11
            nx, ny = px + way * np.cos(angle) * 6.2, py + np.sin(angle) * 6.2
            canvas.stroke(px, py, nx, ny, 6.6 - step * 0.75, green)
            px, py = nx, ny


def paint_forest(canvas: Canvas, draw: Draw) -> None:
    """Trunks in rows that fade into a bright mist, a roof of leaves, beams of light."""
    light: Color = choose(draw, ("#e3f2a6", "#d3efc0", "#f2eeae", "#c7ead2"))
    deep: Color = choose(draw, ("#3f8f5a", "#4f9455", "#35866a"))
    floor = draw.uniform(76, 86)
    canvas.sky((0, mix(deep, light, 0.25)), (floor * 0.6, light), (floor, mix(light, deep, 0.25)))
    canvas.glow(draw.uniform(36, 92), floor * 0.5, 52, "#fffbe0", 0.8)
    for amount, count, width, foot in (
        (0.62, 8, 4.0, floor - 7),
        (0.36, 6, 6.5, floor - 1),
        (0.08, 3, 10.5, floor + 8),
    ):
        trunk = mix(mix("#5a4038", "#4a5a44", draw.uniform(0, 0.5)), light, amount)
        for i in range(count):
            x = (i + draw.uniform(0.1, 0.9)) * 128 / count
            if count == 3:
                x = draw.uniform(0, 22) if i == 0 else draw.uniform(106, 128)
            lean = draw.uniform(-3, 3)
            canvas.stroke(x + lean, -6, x, foot, width, trunk)
            if amount < 0.5:
                offset = width * 0.22
                canvas.stroke(
                    x + lean - offset,
                    -6,
                    x - offset,
                    foot,
                    width * 0.32,
                    mix(trunk, light, 0.3),
                    0.7,
                    soft=1.0,
                )
        haze_line = foot - 3 + wave(canvas.x[0], draw, 2, 40)
        canvas.ridge(haze_line, mix("#5fa04f", light, amount), mix("#3f7f48", light, amount), 26)
    for _ in range(3):
        x = draw.uniform(20, 120)
        canvas.stroke(x, -10, x - 34, floor + 6, 7, "#fffde0", 0.2, soft=7)
    for i in range(15):
        x = i * 9.6 + draw.uniform(-4, 4)
        edge = abs(x - 64) / 64
        shade = mix(mix("#2f7a46", "#5fae4f", draw.uniform()), light, 0.1)
        canvas.disc(x, draw.uniform(-6, 1) + 11 * edge, draw.uniform(9, 13), shade)
    canvas.ridge(
        floor + 12 + wave(canvas.x[0], draw, 2.5, 75), mix("#6db257", light, 0.2), "#2f6f45", 48
    )
    for _ in range(9):
        x, y = draw.uniform(0, 128), draw.uniform(floor + 17, 124)
        color = str(choose(draw, ("#3f8f4c", "#58a551", "#347d50")))
        canvas.stamp(stamps.tuft(canvas.size, int(draw.integers(6)), 11, color), x, y)


def front_forest(canvas: Canvas, draw: Draw) -> None:
    """Ferns along the lower edge."""
    for i in range(6):
        x = (i + draw.uniform(0, 1)) * 128 / 6
        color = str(choose(draw, ("#2f7a48", "#3c8a4a", "#2a6d4c")))
        canvas.stamp(
            stamps.tuft(canvas.size, int(draw.integers(6)), 13, color), x, draw.uniform(128, 132)
        )


def paint_desert(canvas: Canvas, draw: Draw) -> None:
    """Dunes with a lit and a shaded side, table mountains, a white sun."""
    horizon = draw.uniform(56, 68)
    top, low = (("#5aaee0", "#fdeccb"), ("#78b9dc", "#ffe3b5"), ("#6fc0d8", "#fdf0d0"))[
        int(draw.integers(3))
    ]
    canvas.sky((0, top), (horizon, low))
    sx, sy = draw.uniform(14, 114), draw.uniform(13, 26)
    canvas.glow(sx, sy, 44, "#fff2c0", 0.9)
    canvas.disc(sx, sy, 8.5, "#fffbe8")
    x = canvas.x[0]
    for _ in range(2):
        cx, half, rise = draw.uniform(6, 122), draw.uniform(11, 20), draw.uniform(10, 19)
        shape = np.clip((half + 5 - np.abs(x - cx)) / 5, 0, 1)
        rock = mix("#d98b62", low, 0.3)
        canvas.ridge(horizon + 3 - rise * shape, rock, mix(rock, low, 0.35), 20)
    for i, depth in enumerate((0.0, 0.35, 1.0)):
        base = horizon + (0, 11, 29)[i]
        crest = base + wave(x, draw, 4 + 2 * depth, 95, octaves=1)
        sand = mix("#f6cf8f", low, 0.35 - 0.3 * depth)
        canvas.ridge(crest, sand, mix("#e3a25f", "#d98c50", depth), 46)
        slope = np.gradient(crest)
        shade = np.clip(slope * 3.2 * canvas.per_unit, 0, 1)
        first = int(max(0, (crest.min() - 2) * canvas.per_unit))
        below = canvas.y[first:] - crest[None]
        mask = np.clip(below + 0.5, 0, 1) * np.clip(1 - below / 17, 0, 1) * shade[None]
        canvas.blend(0.5 * mask.astype(np.float32), "#b8683f", slice(first, None))
        if i == 1:
            for _ in range(int(draw.integers(1, 4))):
                cx = draw.uniform(4, 40) if draw.random() < 0.5 else draw.uniform(88, 124)
                column = int(cx * canvas.per_unit)
                _saguaro(canvas, cx, float(crest[column]) + 3, draw.uniform(11, 17))
    for _ in range(2):
        px, py = draw.uniform(0, 128), draw.uniform(106, 126)
        canvas.ellipse(px, py, draw.uniform(4, 6), 2.6, "#b9784d", 0.9)
        canvas.ellipse(px - 0.8, py - 0.9, 3, 1.3, "#e0a878", 0.9, soft=0.5)


def _saguaro(canvas: Canvas, x: float, foot: float, height: float) -> None:
    green = "#5f9a63"
    canvas.stroke(x, foot, x, foot - height, 3.6, green)
    arm = foot - height * 0.45
    canvas.stroke(x, arm, x - 4.4, arm, 2.8, green)
    canvas.stroke(x - 4.4, arm, x - 4.4, arm - 4, 2.8, green)
    canvas.stroke(x, arm + 2, x + 4.4, arm + 2, 2.8, green)
    canvas.stroke(x + 4.4, arm + 2, x + 4.4, arm - 4, 2.8, green)


_PETALS = ("#ff7fa5", "#fff6f2", "#ffcf4d", "#b48cf2", "#ff8a5c", "#fb6f7f")


def paint_meadow(canvas: Canvas, draw: Draw) -> None:
    """Rolling green hills full of flowers under heap clouds."""
    horizon = draw.uniform(58, 70)
    top: Color = choose(draw, ("#55b5f2", "#6cc0f5", "#5aa7ec", "#74cdee"))
    canvas.sky((0, top), (horizon, "#e4f6fb"))
    clouds(canvas, draw, int(draw.integers(2, 4)), 18, horizon - 10)
    x = canvas.x[0]
    green: Color = choose(draw, ("#8fd05a", "#86cf66", "#a3d658", "#7cc862"))
    canvas.ridge(
        horizon - 2 + wave(x, draw, 6, 105),
        mix(green, "#dff3e4", 0.45),
        mix(green, "#8fcfa0", 0.3),
        30,
    )
    second = horizon + 8 + wave(x, draw, 4, 90)
    canvas.ridge(second, mix(green, "#f3ffc0", 0.25), mix(green, "#3f9e58", 0.5), 40)
    _row_of(
        canvas, draw, "round", second, (12, 18), int(draw.integers(2, 5)), "#dff3ff", 0.15,
        sink=2, colors=("#5fae54", "#6fbf5a", "#4f9f5f"),
    )  # fmt: skip
    canvas.ridge(
        horizon + 25 + wave(x, draw, 3, 85),
        mix(green, "#ffffa8", 0.2),
        mix(green, "#2f8f4f", 0.6),
        52,
    )
    for i in range(16):
        depth = (i + draw.uniform(0, 1)) / 16
        y = horizon + 32 + depth * (126 - horizon - 32)
        radius = 1.7 if depth < 0.35 else (2.1 if depth < 0.7 else 2.5)
        petal = str(choose(draw, _PETALS))
        heart = "#ffd84d" if petal != "#ffcf4d" else "#c9702f"
        canvas.stamp(stamps.flower(canvas.size, petal, heart, radius), draw.uniform(0, 128), y)


def front_meadow(canvas: Canvas, draw: Draw) -> None:
    """Grass and a few large flowers along the lower edge."""
    for i in range(7):
        x = (i + draw.uniform(0, 1)) * 128 / 7
        color = str(choose(draw, ("#4fa84f", "#5fb552", "#3f9950")))
        canvas.stamp(
            stamps.tuft(canvas.size, int(draw.integers(6)), 10, color), x, draw.uniform(128, 131)
        )
    for _ in range(3):
        canvas.stamp(
            stamps.flower(canvas.size, str(choose(draw, _PETALS)), "#ffd84d", 2.9),
            draw.uniform(4, 124),
            draw.uniform(124, 129),
        )


def paint_mountains(canvas: Canvas, draw: Draw) -> None:
    """Peaks with snow on them, a lake at their feet, a dark row of firs."""
    shore = draw.uniform(72, 82)
    top, low = (("#4f9be6", "#dff0fb"), ("#6aaef0", "#fdebe0"), ("#5fb3e3", "#e9f7ee"))[
        int(draw.integers(3))
    ]
    canvas.sky((0, top), (shore - 8, low))
    clouds(canvas, draw, int(draw.integers(1, 3)), 14, 34, alpha=0.85)
    _range(canvas, draw, shore, 4, (26, 38), mix("#8fa3cf", low, 0.4), 0.35)
    _range(canvas, draw, shore + 1, 3, (42, 62), "#6f7fb0", 0.0)
    x = canvas.x[0]
    wood = shore - 5 + wave(x, draw, 1.5, 50)
    canvas.ridge(wood, "#4a8a72", "#3a7862", 10)
    for i in range(11):
        tree = stamps.pine(canvas.size, int(draw.integers(6)), int(draw.integers(4, 7)) * 3, False)
        canvas.stamp(tree, (i + draw.uniform(0, 1)) * 128 / 11, shore + 3, low, 0.1)
    canvas.ridge(np.full_like(x, shore + 1.5), "#6fb9dc", "#a8dbe6", 18)
    for _ in range(3):
        cx, y = draw.uniform(0, 128), draw.uniform(shore + 5, shore + 13)
        canvas.stroke(cx - 10, y, cx + 10, y, 1.6, "#ffffff", 0.5, soft=1.2)
    bank = shore + 15 + wave(x, draw, 2.5, 80)
    green: Color = choose(draw, ("#8cc474", "#9cc873", "#7fbd7c"))
    canvas.ridge(bank, mix(green, "#fdffd0", 0.25), mix(green, "#2f7f5a", 0.65), 46)
    for _ in range(4):
        rx, ry = draw.uniform(0, 128), draw.uniform(shore + 24, 125)
        r = draw.uniform(3, 5.5)
        canvas.ellipse(rx + 1, ry + 1.6, r * 1.15, r * 0.6, "#3f6f5a", 0.6, soft=0.5)
        canvas.ellipse(rx, ry, r, r * 0.72, "#a3a9b8")
        canvas.ellipse(rx - r * 0.25, ry - r * 0.25, r * 0.6, r * 0.36, "#d8dde6", 0.9, soft=0.6)


def _range(
    canvas: Canvas,
    draw: Draw,
    foot: float,
    count: int,
    rises: tuple[float, float],
    rock: Color,
    haze: float,
) -> None:
    """Peaks side by side, lit from the left, white above their snow line."""
    x = canvas.x[0]
    for i in range(count):
        cx = (i + draw.uniform(0.15, 0.85)) * 128 / count
        rise = draw.uniform(*rises)
        half = rise * draw.uniform(0.82, 1.05)
        side = x - cx
        crooked = wave(x, draw, rise * 0.035, rise * 0.5)
        line = foot - rise * np.clip(1 - np.abs(side) / half, 0, 1) - crooked
        first = int(max(0, (foot - rise - 4) * canvas.per_unit))
        y = canvas.y[first:]
        inside = np.clip((y - line[None]) * canvas.per_unit + 0.5, 0, 1)
        inside = inside * (np.abs(side) < half)[None] * (y < foot)
        height = (foot - y) / np.float32(rise)
        lean = cx + (y - (foot - rise)) * np.float32(0.12) * np.sin(y * np.float32(0.33))
        lit = np.clip((lean - x[None]) * np.float32(0.4) + 0.5, 0, 1)
        zig = np.float32(0.055) * np.abs(((side * np.float32(0.11)) % 2) - 1)[None]
        snow = np.clip((height - 0.58 + zig * 2) * np.float32(rise * 0.7), 0, 1)
        dark, bright = mix(rock, "#3f4a7f", 0.3 * (1 - haze)), mix(rock, "#e8d9d3", 0.3)
        stone = dark + lit[..., None] * (bright - dark)
        white = mix("#c3d3f0", rock, haze * 0.5) + lit[..., None] * (
            mix("#ffffff", rock, haze * 0.3) - mix("#c3d3f0", rock, haze * 0.5)
        )
        color = stone + snow[..., None] * (white - stone)
        part = canvas.pixels[first:]
        part += inside[..., None].astype(np.float32) * (color.astype(np.float32) - part)


_AUTUMN = ("#f08a3c", "#e2583e", "#f4b53f", "#d9743a", "#c9473f")


def paint_autumn(canvas: Canvas, draw: Draw) -> None:
    """Trees in red, orange and gold, a path of fallen leaves."""
    horizon = draw.uniform(64, 74)
    top, low = (("#a8cfe0", "#fff1d6"), ("#c9d6e0", "#ffe6c4"), ("#f3d3a4", "#fff3dc"))[
        int(draw.integers(3))
    ]
    canvas.sky((0, top), (horizon, low))
    canvas.glow(draw.uniform(20, 108), draw.uniform(14, 36), 46, "#fff0c0", 0.7)
    x = canvas.x[0]
    hills = mix("#d99a5b", low, 0.45)
    canvas.ridge(horizon - 6 + wave(x, draw, 4, 80), hills, mix(hills, "#c98a4f", 0.4), 24)
    line = horizon + 4 + wave(x, draw, 2, 70)
    canvas.ridge(line, "#d9a04f", "#b97b3f", 30)
    _row_of(canvas, draw, "round", line, (24, 33), 5, low, 0.3, colors=_AUTUMN)
    near = horizon + 14 + wave(x, draw, 2, 90)
    canvas.ridge(near, "#e2ad55", "#b4683a", 50)
    _row_of(canvas, draw, "round", near, (48, 63), 2, low, 0.05, sink=6, colors=_AUTUMN)
    canvas.ridge(horizon + 27 + wave(x, draw, 2.5, 85), "#e7b45e", "#b5643a", 48)
    for _ in range(20):
        y = draw.uniform(horizon + 26, 126)
        color = str(choose(draw, (*_AUTUMN, "#f9cf5c")))
        canvas.stamp(
            stamps.leaf(canvas.size, int(draw.integers(6)), color), draw.uniform(0, 128), y
        )


def front_autumn(canvas: Canvas, draw: Draw) -> None:
    """Leaves in the air and along the lower edge."""
    for i in range(13):
        color = str(choose(draw, (*_AUTUMN, "#f9cf5c")))
        picture = stamps.leaf(canvas.size, int(draw.integers(6)), color)
        y = draw.uniform(6, 100) if i < 6 else draw.uniform(121, 131)
        x = (i % 6 + draw.uniform(0, 1)) * 128 / 6
        canvas.stamp(picture, x, y)
