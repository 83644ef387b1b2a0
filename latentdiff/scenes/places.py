"""Which painter, ground, shadow and light belong to which setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from latentdiff.scenes import places_moods as moods
from latentdiff.scenes import places_nature as nature
from latentdiff.scenes.brush import Canvas, Color
from latentdiff.scenes.catalog import PLAIN_COLORS
from latentdiff.scenes.places_nature import Draw

Paint = Callable[[Canvas, Draw], None]


@dataclass(frozen=True)
class Place:
    """How a setting is drawn and how it treats what stands in it.

    ground: lowest and highest y (units) of a subject's feet; None where things float.
    light: factors on the subject's R, G, B; veil and veil_amount: colour mixed over the subject.
    bounce: colour of the ground's light on the subject's lower part.
    """

    paint: Paint
    front: Paint | None
    ground: tuple[float, float] | None
    shadow: Color = "#203040"
    shadow_alpha: float = 0.42
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)
    veil: Color = "#ffffff"
    veil_amount: float = 0.0
    bounce: Color = "#ffffff"
    bounce_amount: float = 0.14
    reflection: float = 0.0


PLACES: dict[str, Place] = {
    "snow": Place(
        nature.paint_snow, nature.front_snow, (113, 122), "#5f7fb5", 0.5,
        light=(0.98, 1.0, 1.02), bounce="#f2f7ff", bounce_amount=0.25,
    ),
    "beach": Place(
        nature.paint_beach, None, (110, 121), "#a06a35", 0.5,
        light=(1.02, 1.0, 0.97), bounce="#f8dca0", bounce_amount=0.18,
    ),
    "forest": Place(
        nature.paint_forest, nature.front_forest, (111, 121), "#16402c", 0.5,
        light=(0.96, 1.0, 0.92), bounce="#6db257", bounce_amount=0.16,
    ),
    "night": Place(
        moods.paint_night, moods.front_night, (111, 121), "#060f2e", 0.6,
        light=(0.75, 0.81, 1.0), veil="#2a3f8f", veil_amount=0.05, bounce="#2f5480",
        bounce_amount=0.22,
    ),
    "desert": Place(
        nature.paint_desert, None, (110, 121), "#8a4a28", 0.48,
        light=(1.03, 0.99, 0.93), bounce="#f0bf7f", bounce_amount=0.18,
    ),
    "meadow": Place(
        nature.paint_meadow, nature.front_meadow, (111, 121), "#1f5f35", 0.45,
        bounce="#9fd86a", bounce_amount=0.14,
    ),
    "city": Place(
        moods.paint_city, None, (112, 121), "#2f3045", 0.5, bounce="#a7a4ad", bounce_amount=0.12,
    ),
    "underwater": Place(
        moods.paint_underwater, moods.front_underwater, None, "#0b3f6f", 0.0,
        light=(0.93, 0.99, 1.0), veil="#7fd8f0", veil_amount=0.07, bounce="#2f7fc0",
        bounce_amount=0.16,
    ),
    "rain": Place(
        moods.paint_rain, moods.front_rain, (111, 120), "#37475a", 0.45,
        light=(0.92, 0.95, 0.99), veil="#9fb2c4", veil_amount=0.05, bounce="#8a98a3",
        bounce_amount=0.16, reflection=0.22,
    ),
    "space": Place(
        moods.paint_space, None, None, "#000000", 0.0,
        light=(0.94, 0.93, 1.0), bounce="#4a2f8f", bounce_amount=0.26,
    ),
    "sunset": Place(
        moods.paint_sunset, None, (112, 121), "#2f1a4a", 0.55,
        light=(1.0, 0.84, 0.74), veil="#ff9a5c", veil_amount=0.1, bounce="#7a3f78",
        bounce_amount=0.28,
    ),
    "mountains": Place(
        nature.paint_mountains, None, (112, 121), "#2a5a48", 0.46, bounce="#9cc873",
    ),
    "autumn": Place(
        nature.paint_autumn, nature.front_autumn, (111, 121), "#6f3a24", 0.46,
        light=(1.02, 0.98, 0.92), bounce="#e2ad55", bounce_amount=0.16,
    ),
    "clouds": Place(
        moods.paint_clouds, moods.front_clouds, (114, 121), "#b58fc4", 0.35,
        light=(1.0, 0.99, 1.0), bounce="#ffe6f4", bounce_amount=0.26,
    ),
    "room": Place(
        moods.paint_room, None, (112, 120), "#4a2a2a", 0.45, light=(1.0, 0.98, 0.95),
        bounce="#e0b07c", bounce_amount=0.12,
    ),
    **{
        color: Place(
            partial(moods.paint_plain, color=color), None, (103, 114), "#08080c",
            0.24 if color in ("white", "yellow", "pink") else 0.38,
            bounce=moods.PLAIN_TONES[color][0], bounce_amount=0.12,
        )
        for color in PLAIN_COLORS
    },
}  # fmt: skip
