"""The world: scene k of world seed s, a pure function of (s, k).

>>> scene = World(seed=1).scene(7)
>>> scene.image.shape, scene.record.subjects
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from latentdiff import seeding
from latentdiff.errors import UserError, unknown_name
from latentdiff.scenes import sprites
from latentdiff.scenes.brush import UNITS, Canvas, Float, rgb
from latentdiff.scenes.catalog import (
    RELATIONS,
    SETTINGS,
    SUBJECTS,
    base_subjects,
    find_setting,
    find_subject,
    illustrated_settings,
    plain_settings,
)
from latentdiff.scenes.places import PLACES, Place
from latentdiff.scenes.poses import Pose, calm, lively
from latentdiff.scenes.records import SIDELESS, Placement, Scene, SceneRecord

PAIR_RATE = {"calm": 0.25, "lively": 0.35}
PLAIN_RATE = 0.2
_RELATION_WEIGHTS = (0.4, 0.3, 0.15, 0.15)

# The documentation's prompts, which everybody tries first, are always trained on.
_NEVER_HELD_OUT = frozenset(
    {
        ("cat", "snow"),
        ("dog", "beach"),
        ("penguin", "desert"),
        ("robot", "city"),
        ("rocket", "space"),
        ("fox", "forest"),
        ("octopus", "underwater"),
        ("red-car", "sunset"),
        ("castle", "night"),
        ("cat", "meadow"),
        ("dog", "meadow"),
        ("owl", "snow"),
        ("snowman", "snow"),
    }
)


@cache
def is_held_out_pair(subject: str, setting: str) -> bool:
    """Whether base training never shows this subject in this setting (a tenth of all pairs).

    By a hash of the two keys alone, so the same pairs are held out in every world. The thirteen
    pairs in the documentation's prompts are never held out.
    """
    if (subject, setting) in _NEVER_HELD_OUT:
        return False
    return seeding.uniform(0, "scenes/held-out-pair", subject, setting) < 0.1


def _all_known(kind: str, keys: Sequence[str], known: Mapping[str, object]) -> None:
    if not keys:
        raise UserError(f"a world needs at least one {kind}, found none")
    for key in keys:
        if key not in known:
            raise unknown_name(kind, key, known)


class World:
    """An endless, reproducible supply of captioned scenes.

    seed: the world's seed; size: pictures are size × size pixels; subjects and settings: keys to
    draw from (default: all base subjects, all settings); hold_out_pairs: leave out the pairs of
    `is_held_out_pair`, for every subject of a picture; lively: subjects of any size, turned,
    mirrored and anywhere, instead of in their calm places (`latentdiff.scenes.poses`); pair_rate:
    share of scenes with two subjects, 0 … 1 (default: `PAIR_RATE`).
    """

    def __init__(
        self,
        seed: int,
        *,
        size: int = 128,
        subjects: Sequence[str] | None = None,
        settings: Sequence[str] | None = None,
        hold_out_pairs: bool = True,
        lively: bool = False,
        pair_rate: float | None = None,
    ) -> None:
        self.seed = seed
        self.lively = lively
        usual = PAIR_RATE["lively" if lively else "calm"]
        self.pair_rate = usual if pair_rate is None else pair_rate
        if not 0 <= self.pair_rate <= 1:
            raise UserError(f"found a share of pairs of {pair_rate:g}, expected 0 to 1")
        self.size = size
        self.subjects = tuple(base_subjects() if subjects is None else subjects)
        self.settings = tuple(SETTINGS if settings is None else settings)
        self.hold_out_pairs = hold_out_pairs
        _all_known("subject", self.subjects, SUBJECTS)
        _all_known("setting", self.settings, SETTINGS)
        if not 32 <= size <= 1024:
            raise UserError(f"found size {size}, expected 32 to 1024 pixels")
        self._allowed = {
            key: (
                tuple(s for s in illustrated_settings() if self._allows(key, s)),
                tuple(s for s in plain_settings() if self._allows(key, s)),
            )
            for key in self.subjects
        }
        if subjects is None:
            self.subjects = tuple(key for key in self.subjects if any(self._allowed[key]))
        for key in self.subjects:
            if not any(self._allowed[key]):
                raise UserError(
                    f"every pair of {key!r} with the settings {', '.join(self.settings)} is held "
                    "out; add a setting or allow held-out pairs"
                )

    def _allows(self, subject: str, setting: str) -> bool:
        held_out = self.hold_out_pairs and is_held_out_pair(subject, setting)
        return setting in self.settings and not held_out

    def record(self, k: int) -> SceneRecord:
        """What scene k shows, without painting it."""
        return self._plan(k)[0]

    def scene(self, k: int) -> Scene:
        """Scene k: its picture and its record."""
        record, poses = self._plan(k)
        return Scene(self._paint(record, poses, ("scene", k)), record)

    def compose(
        self, subjects: Sequence[str], setting: str, k: int, relation: str | None = None
    ) -> Scene:
        """Variation k of a scene that shows just these subjects in this setting.

        Subjects and settings by key or name; held-out ones and pairs are allowed. For two
        subjects the relation defaults to "and", and where it says no side the first stands on the
        left. UserError names what is unknown.
        """
        keys = tuple(find_subject(name).key for name in subjects)
        place = find_setting(setting).key
        if len(keys) not in (1, 2) or len(set(keys)) != len(keys):
            raise UserError(f"found subjects {list(subjects)}, expected one, or two different ones")
        if len(keys) == 1 and relation is not None:
            raise UserError(f"relation {relation!r} needs two subjects, found one")
        if len(keys) == 2:
            relation = "and" if relation is None else relation
            if relation not in RELATIONS:
                raise unknown_name("relation", relation, RELATIONS)
        address: tuple[str | int, ...] = ("compose", *keys, place, relation or "", k)
        draw = seeding.generator(self.seed, "scenes/layout", *address)
        sides = "left of" if relation in SIDELESS else relation
        poses = self._pose(keys, place, sides, draw)
        record = self._record(k, place, poses, relation)
        return Scene(self._paint(record, poses, address), record)

    def _plan(self, k: int) -> tuple[SceneRecord, tuple[Pose, ...]]:
        draw = seeding.generator(self.seed, "scenes/layout", "scene", k)
        first = self.subjects[int(draw.integers(len(self.subjects)))]
        keys: tuple[str, ...] = (first,)
        setting = self._setting_for(first, draw)
        relation = None
        if draw.random() < self.pair_rate and len(self.subjects) > 1:
            for _ in range(64):
                second = self.subjects[int(draw.integers(len(self.subjects)))]
                if second != first and self._allows(second, setting):
                    keys = (first, second)
                    relation = str(draw.choice(RELATIONS, p=_RELATION_WEIGHTS))
                    break
        poses = self._pose(keys, setting, relation, draw)
        return self._record(k, setting, poses, relation), poses

    def _setting_for(self, subject: str, draw: np.random.Generator) -> str:
        illustrated, plain = self._allowed[subject]
        group = plain if draw.random() < PLAIN_RATE and plain else illustrated or plain
        return group[int(draw.integers(len(group)))]

    def _pose(
        self,
        keys: tuple[str, ...],
        setting: str,
        relation: str | None,
        draw: np.random.Generator,
    ) -> tuple[Pose, ...]:
        pose = lively if self.lively else calm
        return pose(keys, PLACES[setting], relation, draw)

    def _record(
        self, k: int, setting: str, poses: tuple[Pose, ...], relation: str | None
    ) -> SceneRecord:
        placements = []
        for pose in poses:
            x0, y0, x1, y1 = sprites.turned_extent(pose.subject, pose.angle, pose.mirrored)
            (cx, cy), k_px = pose.middle, self.size / UNITS
            box = (
                max(0, int(np.floor((cx + x0 * pose.side) * k_px))),
                max(0, int(np.floor((cy + y0 * pose.side) * k_px))),
                min(self.size, int(np.ceil((cx + x1 * pose.side) * k_px))),
                min(self.size, int(np.ceil((cy + y1 * pose.side) * k_px))),
            )
            placements.append(Placement(pose.subject, box, pose.mirrored))
        return SceneRecord(self.seed, k, setting, tuple(placements), relation)

    def _paint(
        self, record: SceneRecord, poses: tuple[Pose, ...], address: tuple[str | int, ...]
    ) -> NDArray[np.uint8]:
        place = PLACES[record.setting]
        draw = seeding.generator(self.seed, "scenes/paint", *address)
        canvas = Canvas(self.size)
        mirrored = draw.random() < 0.5
        place.paint(canvas, draw)
        if mirrored:
            canvas.pixels = np.ascontiguousarray(canvas.pixels[:, ::-1])
        if record.setting in ("white", "black", "gray"):
            canvas.pixels *= np.float32(draw.uniform(0.97, 1.03))
        else:
            canvas.pixels *= draw.uniform(0.95, 1.05, 3).astype(np.float32)
        for pose in sorted(poses, key=lambda p: p.ground or 0.0):
            _lay(canvas, pose, place)
        if place.front is not None:
            place.front(canvas, draw)
        return (np.clip(canvas.pixels, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _lay(canvas: Canvas, pose: Pose, place: Place) -> None:
    """Shadow, reflection and the subject itself, in the place's light."""
    k = canvas.per_unit
    cx, cy = pose.middle
    sprite, left, top = sprites.draw_turned(
        pose.subject, pose.side * k, pose.angle, pose.mirrored, (cx * k, cy * k), canvas.size
    )
    height, width = sprite.shape[:2]
    if pose.ground is not None:
        _shadow(canvas, pose, place, sprite[..., 3], left)
        if place.reflection:
            _reflect(canvas, sprite, left, round(pose.ground * k), place.reflection)
    sprite = _lit(sprite, place)
    part = canvas.pixels[top : top + height, left : left + width]
    part *= 1 - sprite[..., 3:]
    part += sprite[..., :3]


def _lit(sprite: Float, place: Place) -> Float:
    alpha = sprite[..., 3:]
    color = sprite[..., :3] * np.array(place.light, np.float32)
    if place.veil_amount:
        color += np.float32(place.veil_amount) * (rgb(place.veil) * alpha - color)
    low = np.linspace(-1.2, 1.0, len(sprite), dtype=np.float32).clip(0)[:, None, None]
    color += np.float32(place.bounce_amount) * low * (rgb(place.bounce) * alpha - color)
    return np.concatenate([np.minimum(color, alpha), alpha], axis=2)


def _shadow(canvas: Canvas, pose: Pose, place: Place, alpha: Float, left: int) -> None:
    """A wide soft shadow and a tight dark one below what touches the ground."""
    k = canvas.per_unit
    ground = pose.ground or 0.0
    if SUBJECTS[pose.subject].airborne:
        rx = alpha.shape[1] / k * 0.36
        canvas.ellipse(
            pose.middle[0], ground, rx, rx * 0.2, place.shadow, place.shadow_alpha * 0.75, soft=0.8
        )
        return
    feet = np.flatnonzero((alpha[-max(4, len(alpha) // 9) :] > 0.3).any(axis=0))
    if not len(feet):
        return
    x0, x1 = (left + feet[0]) / k, (left + feet[-1] + 1) / k
    half, middle = (x1 - x0) / 2, (x0 + x1) / 2
    strength = place.shadow_alpha
    wide = half * 1.12 + 7
    canvas.ellipse(
        middle + 2,
        ground - 0.5,
        wide,
        min(9.0, wide * 0.24),
        place.shadow,
        strength * 0.7,
        soft=0.9,
    )
    tight = half * 0.98 + 2.5
    canvas.ellipse(
        middle, ground - 1.0, tight, min(5.0, tight * 0.17 + 1), place.shadow, strength, soft=0.7
    )


def _reflect(canvas: Canvas, sprite: Float, left: int, ground: int, strength: float) -> None:
    rows = min(canvas.size - ground, len(sprite) // 3)
    if rows <= 0:
        return
    mirrored = sprite[::-1][:rows]
    fade = np.linspace(strength, 0, rows, dtype=np.float32)[:, None, None]
    part = canvas.pixels[ground : ground + rows, left : left + sprite.shape[1]]
    part *= 1 - fade * mirrored[..., 3:]
    part += fade * mirrored[..., :3]
