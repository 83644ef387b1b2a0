"""The ground truth of a scene: what stands where, in which setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDELESS = ("and", "next to")
"""Relations that do not say which of the two stands on the left."""


@dataclass(frozen=True)
class Placement:
    """One subject in a picture.

    box: (x0, y0, x1, y1) in pixels of the picture, the subject's visible extent, end-exclusive.
    mirrored: drawn facing the other way than its picture in the assets.
    """

    subject: str
    box: tuple[int, int, int, int]
    mirrored: bool

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) of the box's middle, in pixels."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class SceneRecord:
    """Everything that is true of scene `index` of world `world_seed`.

    relation is None for one subject, otherwise one of `catalog.RELATIONS`, read from the first
    placement to the second ("first left of second").
    """

    world_seed: int
    index: int
    setting: str
    placements: tuple[Placement, ...]
    relation: str | None = None

    @property
    def subjects(self) -> tuple[str, ...]:
        """The placed subjects' keys, in the order of the placements."""
        return tuple(placement.subject for placement in self.placements)

    @property
    def named(self) -> tuple[str, ...]:
        """The subjects' keys in the order in which words name them.

        Where the relation does not say who stands where ("and", "next to"), as one reads a
        picture, from left to right; otherwise as placed.
        """
        if self.relation in SIDELESS:
            return tuple(p.subject for p in sorted(self.placements, key=lambda p: p.center[0]))
        return self.subjects

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping that `from_json` reads back to an equal record."""
        return {
            "world_seed": self.world_seed,
            "index": self.index,
            "setting": self.setting,
            "relation": self.relation,
            "placements": [
                {"subject": p.subject, "box": list(p.box), "mirrored": p.mirrored}
                for p in self.placements
            ],
        }

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> SceneRecord:
        """The record that `to_json` wrote."""
        placements = []
        for placed in mapping["placements"]:
            x0, y0, x1, y1 = (int(v) for v in placed["box"])
            placements.append(
                Placement(str(placed["subject"]), (x0, y0, x1, y1), bool(placed["mirrored"]))
            )
        relation = mapping["relation"]
        return cls(
            world_seed=int(mapping["world_seed"]),
            index=int(mapping["index"]),
            setting=str(mapping["setting"]),
            placements=tuple(placements),
            relation=None if relation is None else str(relation),
        )


@dataclass(frozen=True)
class Scene:
    """A rendered picture, uint8 (size, size, 3) sRGB, and its record."""

    image: NDArray[np.uint8]
    record: SceneRecord
