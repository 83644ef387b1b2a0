"""Where subjects stand in a scene: in calm places by default, or anywhere ("lively").

In the calm world a subject looks as its picture was made: it is neither mirrored nor turned, its
size varies by three per cent and its place by three units. Two subjects have two fixed slots. What
a model has to learn is then what things look like, not how they may be moved about.

All lengths are in units: a picture is 128 units wide, whatever its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentdiff.scenes import sprites
from latentdiff.scenes.catalog import SUBJECTS
from latentdiff.scenes.places import Place
from latentdiff.scenes.records import SIDELESS

_LONGEST = {True: 100.0, False: 62.0}  # of a subject alone, and of one of two
_SHORTEST = {True: 70.0, False: 48.0}
_CALM_SIDE = {True: 88.0, False: 58.0}
_SLOTS = (34.0, 94.0)
_CALM_LIFT = 8.0


@dataclass(frozen=True)
class Pose:
    """One subject's place in a scene, in units: its middle, longer side before turning, feet."""

    subject: str
    middle: tuple[float, float]
    side: float
    angle: float
    mirrored: bool
    ground: float | None


def calm(
    keys: tuple[str, ...], place: Place, relation: str | None, draw: np.random.Generator
) -> tuple[Pose, ...]:
    """Poses of one subject in the middle, or of two in the two slots."""
    alone = len(keys) == 1
    slots = (64.0,) if alone else _sides(relation, draw, *_SLOTS)
    return tuple(_calm(key, x, alone, place, draw) for key, x in zip(keys, slots, strict=True))


def lively(
    keys: tuple[str, ...], place: Place, relation: str | None, draw: np.random.Generator
) -> tuple[Pose, ...]:
    """Poses of one or two subjects of any size, turned and mirrored, about their places."""
    alone = len(keys) == 1
    if alone:
        middles: tuple[float, ...] = (64 + draw.uniform(-9, 9),)
    else:
        first = _low_side_first(relation, draw)
        low, high = 35 + draw.uniform(-4, 3), 93 + draw.uniform(-3, 4)
        middles = (low, high) if first else (high, low)
    return tuple(_lively(key, x, alone, place, draw) for key, x in zip(keys, middles, strict=True))


def _sides(
    relation: str | None, draw: np.random.Generator, low: float, high: float
) -> tuple[float, float]:
    return (low, high) if _low_side_first(relation, draw) else (high, low)


def _low_side_first(relation: str | None, draw: np.random.Generator) -> bool:
    """Whether the first subject stands on the left; drawn where the relation does not say."""
    if relation in SIDELESS:
        return bool(draw.random() < 0.5)
    return relation == "left of"


def _calm(key: str, x: float, alone: bool, place: Place, draw: np.random.Generator) -> Pose:
    subject = SUBJECTS[key]
    side = _CALM_SIDE[alone] * draw.uniform(0.97, 1.03) * subject.scale
    side = float(np.clip(side, _SHORTEST[alone], _LONGEST[alone]))
    x += draw.uniform(-3, 3) if alone else draw.uniform(-1.5, 1.5)
    x0, y0, x1, y1 = sprites.turned_extent(key, 0.0, False)
    ground: float | None = None
    if place.ground is None:
        y = 62 + draw.uniform(-3, 3)
    else:
        ground = float(sum(place.ground) / 2 + draw.uniform(-1.5, 1.5))
        y = ground - (_CALM_LIFT if subject.airborne else 0.0) - y1 * side
    y = float(np.clip(y, 3 - y0 * side, 126 - y1 * side))
    x = float(np.clip(x, 2 - x0 * side, 126 - x1 * side))
    return Pose(key, (x, y), side, 0.0, False, ground)


def _lively(key: str, x: float, alone: bool, place: Place, draw: np.random.Generator) -> Pose:
    """Size, turn and height of one subject about the given x; it stays inside the picture."""
    subject = SUBJECTS[key]
    low, high = (76, 98) if alone else (51, 62)
    side = float(
        np.clip(draw.uniform(low, high) * subject.scale, _SHORTEST[alone], _LONGEST[alone])
    )
    angle = float(draw.uniform(-8, 8)) * (0.3 if subject.upright else 1.0)
    mirrored = bool(draw.random() < 0.5)
    lift = draw.uniform(0, 1)
    x0, y0, x1, y1 = sprites.turned_extent(key, angle, mirrored)
    # A turned picture can be longer than its longer side: keep to the limits of its kind.
    side *= min(1.0, _LONGEST[alone] / (side * max(x1 - x0, y1 - y0)))
    ground: float | None = None
    if place.ground is None:
        y = 62 + draw.uniform(-7, 7) * (1 if alone else 2)
    else:
        ground = float(draw.uniform(*place.ground))
        gap = 4 + 9 * lift if subject.airborne else 0.0
        if subject.airborne and not alone:
            gap += 14 * lift
        y = ground - gap - y1 * side
    y = float(np.clip(y, 3 - y0 * side, 126 - y1 * side))
    x = float(np.clip(x, 2 - x0 * side, 126 - x1 * side))
    return Pose(key, (x, y), side, angle, mirrored, ground)
