"""Hours, weathers and odd places: night, city, underwater, rain, space, sunset, clouds, room.

Also the plain coloured backgrounds. The same conventions as in `places_nature`.
"""

from __future__ import annotations

import numpy as np

from latentdiff.scenes import stamps
from latentdiff.scenes.brush import Canvas, Color, choose, mix, wave
from latentdiff.scenes.places_nature import Draw, clouds


def _stars(canvas: Canvas, draw: Draw, count: int, low: float, colors: tuple[str, ...]) -> None:
    for i in range(count):
        x = (i % 6 + draw.uniform(0.05, 0.95)) * 128 / 6
        y = (i // 6 + draw.uniform(0.05, 0.95)) * low / max(1, -(-count // 6))
        r = draw.uniform(2.0, 3.0)
        color = choose(draw, colors)
        canvas.glow(x, y, r * 2.8, color, 0.32)
        canvas.ellipse(x, y, r, r, color, 0.95, soft=0.7)


def paint_night(canvas: Canvas, draw: Draw) -> None:
    """A large moon with its halo over blue hills, a window lit far away."""
    horizon = draw.uniform(76, 86)
    top, low = (("#0d1440", "#35509b"), ("#141046", "#4a4a9f"), ("#0a1c44", "#2f6a96"))[
        int(draw.integers(3))
    ]
    canvas.sky((0, top), (horizon, low))
    _stars(
        canvas, draw, int(draw.integers(10, 14)), horizon - 14, ("#ffffff", "#fff0c4", "#cfe0ff")
    )
    mx, my, r = draw.uniform(18, 110), draw.uniform(17, 30), draw.uniform(10, 14)
    canvas.glow(mx, my, 54, "#b9ccff", 0.5)
    canvas.disc(mx, my, r, "#fff6d8")
    canvas.ellipse(mx + r * 0.3, my - r * 0.2, r * 0.26, r * 0.26, "#e6d7b0", 0.8, soft=0.5)
    canvas.ellipse(mx - r * 0.35, my + r * 0.25, r * 0.32, r * 0.32, "#e6d7b0", 0.8, soft=0.5)
    x = canvas.x[0]
    hill = mix(low, "#1b2f66", 0.55)
    far = horizon - 10 + wave(x, draw, 6, 95)
    canvas.ridge(far, mix(hill, low, 0.4), hill, 34)
    near = horizon + 2 + wave(x, draw, 4, 85)
    for _ in range(4):
        side = draw.uniform(0, 34) if draw.random() < 0.5 else draw.uniform(94, 128)
        tree = stamps.pine(canvas.size, int(draw.integers(6)), int(draw.integers(6, 10)) * 3, False)
        column = int(np.clip(side * canvas.per_unit, 0, canvas.size - 1))
        canvas.stamp(tree, side, float(near[column]) + 3, "#16245a", 0.78)
    canvas.ridge(near, "#2f5480", "#142a56", 44)
    canvas.ridge(horizon + 17 + wave(x, draw, 2.5, 80), "#3b6a8c", "#17305c", 48)
    canvas.glow(mx, 120, 50, "#9fc4ff", 0.22)


def front_night(canvas: Canvas, draw: Draw) -> None:
    """Fireflies."""
    for _ in range(int(draw.integers(3, 6))):
        x, y = draw.uniform(4, 124), draw.uniform(70, 124)
        canvas.glow(x, y, 7, "#ffe27a", 0.6)
        canvas.ellipse(x, y, 2.3, 2.3, "#fff6c0", 0.95, soft=0.6)


def paint_city(canvas: Canvas, draw: Draw) -> None:
    """Coloured fronts in two rows, a pavement, a street with its dashes."""
    street = draw.uniform(86, 93)
    top, low = (("#7cc3ee", "#fdf0e0"), ("#93b8f0", "#ffe7e0"), ("#86d0e0", "#f6f4dc"))[
        int(draw.integers(3))
    ]
    canvas.sky((0, top), (street - 10, low))
    clouds(canvas, draw, int(draw.integers(1, 3)), 14, 34, alpha=0.9)
    at = draw.uniform(-10, 0)
    while at < 128:
        width = int(draw.integers(3, 6)) * 5
        height = int(draw.integers(9, 16)) * 5
        tower = stamps.tower(canvas.size, int(draw.integers(6)), width, height, True)
        canvas.stamp(tower, at + width / 2, street, low, 0.6)
        at += width
    at = draw.uniform(-14, 0)
    while at < 128:
        width = int(draw.integers(4, 7)) * 5
        middle = abs(at + width / 2 - 64) / 64
        height = int(draw.integers(6, 10) + 4 * middle) * 5
        tower = stamps.tower(canvas.size, int(draw.integers(6)), width, height, False)
        canvas.stamp(tower, at + width / 2, street, low, 0.08)
        at += width + draw.uniform(-1, 3)
    x = canvas.x[0]
    for i in range(5):
        bush = (i + draw.uniform(0, 1)) * 128 / 5
        canvas.disc(
            bush, street, draw.uniform(4, 6), choose(draw, ("#6fb56a", "#5fa666", "#86c26b"))
        )
    canvas.ridge(np.full_like(x, street), "#e3dbd3", "#d3cac6", 7)
    canvas.ridge(np.full_like(x, street + 7.5), "#a7a4ad", "#a7a4ad", 3)
    canvas.ridge(np.full_like(x, street + 10), "#7f8090", "#63657a", 34)
    shift, y = draw.uniform(0, 32), street + 25
    for i in range(5):
        canvas.stroke(i * 32 - shift, y, i * 32 + 15 - shift, y, 3.4, "#f4efe2", 0.95)


def paint_underwater(canvas: Canvas, draw: Draw) -> None:
    """Beams from the surface, a sandy ground with corals and weed."""
    top, low = (("#8fe9ee", "#0f5fa0"), ("#7fe3dc", "#13608f"), ("#8fd8f5", "#2350a8"))[
        int(draw.integers(3))
    ]
    canvas.sky((0, top), (44, mix(top, low, 0.55)), (112, low))
    lean = draw.uniform(-30, 30)
    for i in range(4):
        x = (i + draw.uniform(0, 1)) * 128 / 4
        canvas.stroke(x, -12, x + lean, draw.uniform(66, 100), 8, "#e9ffff", 0.2, soft=8)
    x = canvas.x[0]
    canvas.ridge(88 + wave(x, draw, 6, 80), mix(low, "#1b4f86", 0.4), mix(low, "#123f6f", 0.5), 26)
    sand = 106 + wave(x, draw, 3, 75)
    for _ in range(int(draw.integers(4, 7))):
        _weed(canvas, draw, draw.uniform(0, 128), 112)
    for _ in range(int(draw.integers(2, 5))):
        side = draw.uniform(2, 42) if draw.random() < 0.5 else draw.uniform(86, 126)
        color = str(choose(draw, ("#ff7f8f", "#ff9d5c", "#c27fe8", "#ffc35c", "#f26fb0")))
        reef = stamps.coral(canvas.size, int(draw.integers(6)), int(draw.integers(5, 9)) * 4, color)
        canvas.stamp(reef, side, 113, low, 0.12)
    canvas.ridge(sand, mix("#f0dba0", low, 0.22), mix("#c9a86f", low, 0.4), 26)
    for _ in range(3):
        cx, cy = draw.uniform(0, 128), draw.uniform(113, 126)
        canvas.ellipse(cx, cy, draw.uniform(7, 13), 1.8, "#fff3c4", 0.4, soft=0.7)


def _weed(canvas: Canvas, draw: Draw, x: float, foot: float) -> None:
    green = mix("#2fae7f", "#7fcf5f", draw.uniform())
    phase, height = draw.uniform(0, 6), draw.uniform(24, 52)
    px, py = x, foot
    for i in range(1, 7):
        nx, ny = x + np.sin(phase + i * 0.9) * 4.2, foot - height * i / 6
        canvas.stroke(px, py, nx, ny, 5.2 - i * 0.35, green)
        px, py = nx, ny


def front_underwater(canvas: Canvas, draw: Draw) -> None:
    """Bubbles."""
    for _ in range(int(draw.integers(6, 10))):
        x, y, r = draw.uniform(2, 126), draw.uniform(6, 104), draw.uniform(2.2, 4.6)
        canvas.disc(x, y, r, "#d9fbff", 0.4)
        canvas.ellipse(x, y, r * 0.72, r * 0.72, "#5fc0e0", 0.25, soft=0.4)
        canvas.ellipse(x - r * 0.32, y - r * 0.34, r * 0.42, r * 0.36, "#ffffff", 0.95, soft=0.5)


def paint_rain(canvas: Canvas, draw: Draw) -> None:
    """Heavy clouds, misty hills, puddles."""
    horizon = draw.uniform(66, 76)
    top, low = (("#48689a", "#b9d0e2"), ("#5a68a0", "#c3c9ea"), ("#43788f", "#b6d8dc"))[
        int(draw.integers(3))
    ]
    canvas.sky((0, top), (horizon, low))
    x = canvas.x[0]
    canvas.ridge(
        horizon - 9 + wave(x, draw, 6, 90), mix(low, "#6f8a9c", 0.4), mix(low, "#6f8a9c", 0.25), 26
    )
    line = horizon + wave(x, draw, 3, 80)
    for _ in range(4):
        side = draw.uniform(0, 40) if draw.random() < 0.5 else draw.uniform(88, 128)
        height = int(draw.integers(6, 9)) * 3
        tree = stamps.round_tree(canvas.size, int(draw.integers(6)), height, "#5f8f78")
        canvas.stamp(tree, side, horizon + 6, low, 0.4)
    canvas.ridge(line + 3, mix("#6f9a84", low, 0.25), mix("#55806f", low, 0.1), 36)
    canvas.ridge(horizon + 16 + wave(x, draw, 2, 90), "#8a98a3", "#62727f", 46)
    for i in range(4):
        cx, cy = (i + draw.uniform(0, 1)) * 32, draw.uniform(horizon + 24, 124)
        rx = draw.uniform(10, 19)
        canvas.ellipse(cx, cy, rx, rx * 0.24, mix(low, "#d7e9f7", 0.4), 0.85)
        canvas.ellipse(cx, cy + 0.6, rx * 0.72, rx * 0.13, mix(top, low, 0.5), 0.5, soft=0.5)
    for i in range(6):
        cx = i * 25 + draw.uniform(-8, 8)
        body = "#8393aa" if i % 2 else "#75869f"
        picture = stamps.cloud(canvas.size, int(draw.integers(6)), 45, body, "#62728d")
        canvas.stamp(picture, cx, draw.uniform(14, 26))


def front_rain(canvas: Canvas, draw: Draw) -> None:
    """Slanted streaks, and rings where drops meet the ground."""
    lean = draw.uniform(-5, 5)
    for i in range(26):
        x = (i % 7 + draw.uniform(0, 1)) * 128 / 7
        y = (i // 7 + draw.uniform(0, 1)) * 128 / 4 - 4
        length = draw.uniform(8, 13)
        canvas.stroke(x, y, x - lean * length / 13, y + length, 2.0, "#e6f3ff", 0.62, soft=0.8)
    for _ in range(5):
        x, y = draw.uniform(4, 124), draw.uniform(104, 126)
        canvas.ellipse(x, y, 4.6, 1.7, "#e6f3ff", 0.7)
        canvas.ellipse(x, y, 2.8, 0.9, "#7f909f", 0.7)


def paint_space(canvas: Canvas, draw: Draw) -> None:
    """Coloured mists, stars and one or two planets on a dark sky."""
    base: Color = choose(draw, ("#120b36", "#0b1038", "#1a0b3a", "#071a38"))
    canvas.sky((0, mix(base, "#2a1b66", 0.5)), (128, base))
    tints = ("#7a3fd0", "#d0458f", "#2f7fd6", "#1fa8b0", "#e0764a")
    first = int(draw.integers(len(tints)))
    for i in range(2):
        cloud = np.clip(canvas.mottle(draw, (4, 4)) * 0.6 + 0.32, 0, 1) ** 2
        canvas.blend(cloud * np.float32(0.75), tints[(first + i) % len(tints)])
    _stars(
        canvas, draw, int(draw.integers(16, 22)), 126, ("#ffffff", "#ffe9c4", "#c9dcff", "#ffd0e6")
    )
    corners = [(20, 22), (108, 22), (18, 104), (110, 104)]
    order = draw.permutation(4)
    for i in range(int(draw.integers(1, 3))):
        cx, cy = corners[int(order[i])]
        radius = int(draw.integers(5, 9)) * 2 if i == 0 else int(draw.integers(3, 5)) * 2
        picture = stamps.planet(canvas.size, int(draw.integers(6)), radius)
        half = picture.shape[0] / canvas.per_unit / 2
        canvas.glow(cx, cy, radius * 2.2, "#ffe0d0", 0.18)
        canvas.stamp(picture, cx + draw.uniform(-8, 8), cy + half + draw.uniform(-8, 8))


def paint_sunset(canvas: Canvas, draw: Draw) -> None:
    """The sun half below a glittering sea, burning clouds, a dark shore."""
    horizon = draw.uniform(70, 80)
    skies = (
        ("#5a3f9e", "#e0607e", "#ff9d5c", "#ffe08a"),
        ("#41408f", "#c8578f", "#ff8a5f", "#ffd67f"),
        ("#7a4aa0", "#f0707a", "#ffb066", "#fff0a8"),
    )
    a, b, c, d = skies[int(draw.integers(len(skies)))]
    canvas.sky((0, a), (horizon * 0.42, b), (horizon * 0.75, c), (horizon, d))
    sx, r = draw.uniform(14, 40), draw.uniform(14, 19)
    canvas.glow(sx, horizon - 2, 62, "#fff0b0", 0.7)
    canvas.disc(sx, horizon - r * 0.25, r, "#fff3c4")
    for _ in range(int(draw.integers(3, 6))):
        cx, cy, half = draw.uniform(0, 128), draw.uniform(12, horizon - 18), draw.uniform(12, 26)
        tone = mix(b, a, draw.uniform(0.1, 0.6))
        canvas.ellipse(cx, cy, half, 4.2, tone, 0.85, soft=0.5)
        canvas.ellipse(cx + 3, cy + 2.2, half * 0.75, 2.4, mix(c, "#ffe9b0", 0.3), 0.8, soft=0.6)
    x = canvas.x[0]
    canvas.ridge(np.full_like(x, horizon), mix(c, d, 0.3), mix(a, b, 0.5), 34)
    for i in range(6):
        y = horizon + 2.5 + i * 4
        half = r * 0.95 * (1 - 0.09 * i) * draw.uniform(0.6, 1.05)
        canvas.stroke(sx - half, y, sx + half, y, 2.0, "#fff0b8", 0.8, soft=0.8)
    far = horizon - 4 + wave(x, draw, 4, 70)
    side = np.clip(np.abs(x - sx) / 40 - 0.75, 0, 1.2)
    canvas.ridge(
        horizon + 1 - (horizon + 1 - far + 6) * side * 0.8, mix(a, b, 0.45), mix(a, b, 0.3), 20
    )
    shore = horizon + 24 + wave(x, draw, 2.5, 90)
    canvas.ridge(shore, "#a8557a", "#4a2f66", 42)
    canvas.glow(sx, 112, 46, "#ffb070", 0.35)


def paint_clouds(canvas: Canvas, draw: Draw) -> None:
    """A pink sky with heaps of clouds, a thick one to sit on, perhaps a rainbow."""
    skies = (
        ("#8fb4f5", "#f3b8dc", "#ffd9e2"),
        ("#a99df0", "#f5b3d0", "#ffe3d6"),
        ("#8ec5f2", "#e8bdea", "#ffd0e0"),
    )
    a, b, c = skies[int(draw.integers(len(skies)))]
    canvas.sky((0, a), (62, b), (118, c))
    canvas.glow(draw.uniform(20, 108), draw.uniform(14, 44), 50, "#fff8e6", 0.7)
    if draw.random() < 0.5:
        cx = draw.uniform(36, 92)
        reach = np.hypot(canvas.x - cx, canvas.y - 112)
        bands = ("#ff7f8a", "#ffb066", "#ffe58a", "#8fe0a0", "#86bdf5", "#bf9bf0")
        for i, color in enumerate(bands):
            band = np.clip(2.6 - np.abs(reach - (84 - i * 4.6)), 0, 1)
            canvas.blend(band * np.float32(0.5), color)
    clouds(canvas, draw, 4, 30, 92, shade="#e6cdec", alpha=0.95)
    for cx in (-4, 28, 64, 100, 132):
        picture = stamps.cloud(canvas.size, int(draw.integers(6)), 63, "#ffffff", "#e9cfe9")
        canvas.stamp(picture, cx + draw.uniform(-6, 6), draw.uniform(116, 124))
    canvas.ridge(116 + wave(canvas.x[0], draw, 2, 50), "#ffffff", "#f3dcf0", 20)


def front_clouds(canvas: Canvas, draw: Draw) -> None:
    """Tufts of cloud around the feet."""
    for i in range(7):
        x = (i + draw.uniform(0, 1)) * 128 / 7
        canvas.ellipse(
            x, draw.uniform(121, 126), draw.uniform(11, 15), 8.5, "#ffffff", 0.95, soft=0.35
        )


def paint_room(canvas: Canvas, draw: Draw) -> None:
    """A papered wall with a window or pictures, a wooden floor, a rug."""
    wall: Color = choose(
        draw, ("#f3d9c4", "#cfe3dc", "#d9d4ee", "#f6e3b8", "#c9dcec", "#f2cfd2", "#dbe5c4")
    )
    floor = draw.uniform(80, 88)
    canvas.sky((0, mix(wall, "#ffffff", 0.25)), (floor, mix(wall, "#a8879a", 0.12)))
    wx = draw.uniform(26, 102)
    _window(canvas, draw, wx, draw.uniform(30, 36))
    if abs(wx - 64) > 16:
        fx = 128 - wx + draw.uniform(-6, 6)
        _frame(canvas, draw, fx, draw.uniform(26, 40))
    x = canvas.x[0]
    canvas.ridge(
        np.full_like(x, floor - 5), mix(wall, "#ffffff", 0.75), mix(wall, "#ffffff", 0.5), 8
    )
    wood: Color = choose(draw, ("#d99f68", "#c98a5a", "#e0b07c"))
    canvas.ridge(np.full_like(x, floor), mix(wood, "#fff0d8", 0.2), mix(wood, "#8f5238", 0.35), 46)
    for i in range(-5, 6):
        gap = wood if i % 2 else mix(wood, "#7a4630", 0.3)
        canvas.stroke(64 + i * 15, floor + 1, 64 + i * 27, 130, 2.0, mix(gap, "#7a4630", 0.25), 0.6)
    rug: Color = choose(draw, ("#e2788c", "#6fa8d6", "#8f86d6", "#6fbf9f", "#f0b65c"))
    cx = 64 + draw.uniform(-8, 8)
    canvas.ellipse(cx, 114, 55, 15, mix(rug, "#4a2f50", 0.25))
    canvas.ellipse(cx, 113, 54, 14, rug)
    canvas.ellipse(cx, 113, 45, 10.5, mix(rug, "#fff6e6", 0.55))
    canvas.ellipse(cx, 113, 41, 9, rug)


def _window(canvas: Canvas, draw: Draw, cx: float, cy: float) -> None:
    for half, color in ((17, "#ffffff"), (14, "#a9dcf5")):
        rows, columns, _, _ = canvas.window(cx - half, cy - half, cx + half, cy + half) or (0,) * 4
        canvas.pixels[rows, columns] = mix(color, color, 0)
    canvas.ellipse(cx - 3, cy + 8, 9, 4, "#ffffff", 0.9, soft=0.5)
    canvas.ellipse(cx + 6, cy - 5, 6, 3, "#ffffff", 0.9, soft=0.5)
    canvas.stroke(cx, cy - 14, cx, cy + 14, 2.6, "#ffffff")
    canvas.stroke(cx - 14, cy, cx + 14, cy, 2.6, "#ffffff")
    curtain = choose(draw, ("#f0949c", "#8fb8e0", "#f2c270", "#9fcf9f", "#c5a3e0"))
    for side in (-1, 1):
        canvas.stroke(cx + side * 18, cy - 17, cx + side * 20, cy + 20, 8, curtain)
        canvas.stroke(
            cx + side * 17, cy - 15, cx + side * 19, cy + 18, 2.4, mix(curtain, "#ffffff", 0.4), 0.8
        )
    canvas.stroke(cx - 24, cy - 20, cx + 24, cy - 20, 3.0, "#a8704a")


def _frame(canvas: Canvas, draw: Draw, cx: float, cy: float) -> None:
    tone = choose(draw, ("#a8704a", "#e0b04f", "#6f7fa8"))
    for half, color in (
        (11, tone),
        (8, choose(draw, ("#fdeccb", "#cfe8f0", "#f6d0d0", "#d8ecc8"))),
    ):
        where = canvas.window(cx - half, cy - half * 0.85, cx + half, cy + half * 0.85)
        if where is not None:
            canvas.pixels[where[0], where[1]] = mix(color, color, 0)
    canvas.ellipse(cx, cy + 4, 5.5, 3.4, choose(draw, ("#6fae7f", "#e08a6f", "#7f8fd0")), soft=0.3)
    canvas.disc(cx + 2.5, cy - 2.5, 2.2, "#f6b84f")


PLAIN_TONES: dict[str, tuple[str, str]] = {
    "red": ("#ee5a55", "#c5302f"),
    "orange": ("#ffab4f", "#ee7d1c"),
    "yellow": ("#ffe26b", "#f3c21b"),
    "green": ("#6fcf6a", "#2f9e48"),
    "blue": ("#5aa2f5", "#245fd0"),
    "purple": ("#a878e8", "#6f3cb8"),
    "pink": ("#ffb0d3", "#f277ad"),
    "white": ("#ffffff", "#e9e9ee"),
    "gray": ("#b4b6bb", "#85878e"),
    "black": ("#2b2b31", "#0c0c10"),
}


def paint_plain(canvas: Canvas, draw: Draw, color: str) -> None:
    """A studio backdrop: bright behind the subject, darker toward the corners and the floor."""
    light, dark = PLAIN_TONES[color]
    shift = draw.uniform(-0.12, 0.12)
    canvas.sky((0, mix(light, dark, 0.35 + shift)), (96, mix(light, dark, 0.5)), (128, dark))
    canvas.ellipse(
        64 + draw.uniform(-10, 10), 54 + draw.uniform(-8, 8), 92, 84, light, 0.85, soft=1.0
    )
