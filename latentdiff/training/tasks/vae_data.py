"""What an autoencoder learns from: crops of scenes near their subjects, or of the user's images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentdiff import seeding
from latentdiff.data.rendered.scene_pictures import PoolPictures, WorldPictures, row_of
from latentdiff.scenes.catalog import held_out_subjects
from latentdiff.scenes.records import Scene, SceneRecord
from latentdiff.scenes.world import World
from latentdiff.training.feeds.feed import Feed

MAX_BOXES = 2

Image = NDArray[np.uint8]
Boxes = list[list[tuple[int, int, int, int]]]


class Crops(Protocol):
    """Crops by position, and fixed whole images."""

    @property
    def summary(self) -> dict[str, Any]:
        """What the run's report says of the data."""
        ...

    @property
    def fingerprint(self) -> str:
        """What must be the same for a run to go on."""
        ...

    def crops(self, positions: Sequence[int]) -> tuple[Image, NDArray[np.int16]]:
        """Images (B, h, w, 3) uint8, and their subjects' boxes (B, 2, 4), empty where unknown."""
        ...

    def names(self, positions: Sequence[int]) -> list[str]:
        """What a report calls the samples at these positions."""
        ...

    def trained(self, count: int) -> list[Image]:
        """At most `count` whole images (H, W, 3) uint8 that are trained on."""
        ...

    def validation(self) -> dict[str, tuple[list[Image], Boxes | None]]:
        """Prefix of the numbers' names -> images that are not trained on, and their boxes."""
        ...


class SceneCrops:
    """Square crops of scenes; `centred` of them lie near a subject."""

    def __init__(
        self,
        scenes: PoolPictures | WorldPictures,
        *,
        crop: int,
        centred: float,
        seed: int,
        validation_seed: int,
        validation_images: int,
    ) -> None:
        self.scenes, self.crop, self.centred, self.seed = scenes, crop, centred, seed
        self._validation_seed, self._validation_images = validation_seed, validation_images
        self._unseen: tuple[list[Scene], list[Scene]] | None = None

    @property
    def summary(self) -> dict[str, Any]:
        count = self.scenes.count
        return {"source": "scenes", "pictures": "endless" if count is None else count}

    @property
    def fingerprint(self) -> str:
        return ""

    def crops(self, positions: Sequence[int]) -> tuple[Image, NDArray[np.int16]]:
        crop = self.crop
        images = np.empty((len(positions), crop, crop, 3), np.uint8)
        boxes = np.zeros((len(positions), MAX_BOXES, 4), np.int16)
        for k, position in enumerate(positions):
            row = row_of(position, self.scenes.count, self.seed)
            record = self.scenes.record(row)
            x, y = self.corner(record, position)
            images[k] = self.scenes.picture(row)[y : y + crop, x : x + crop]
            for n, placement in enumerate(record.placements[:MAX_BOXES]):
                boxes[k, n] = np.subtract(placement.box, (x, y, x, y))
        return images, boxes

    def corner(self, record: SceneRecord, position: int) -> tuple[int, int]:
        """Upper left corner of the crop: near a subject's middle, or anywhere."""
        room = self.scenes.size - self.crop
        if room == 0:
            return 0, 0
        draw = seeding.generator(self.seed, "crop", position)
        if draw.random() >= self.centred:
            return int(draw.integers(room + 1)), int(draw.integers(room + 1))
        box = record.placements[int(draw.integers(len(record.placements)))].box
        corner = []
        for low, high in ((box[0], box[2]), (box[1], box[3])):
            middle = (low + high) / 2 + (draw.random() - 0.5) * (high - low) * 0.6
            corner.append(int(np.clip(round(middle - self.crop / 2), 0, room)))
        return corner[0], corner[1]

    def names(self, positions: Sequence[int]) -> list[str]:
        return [f"scene {row_of(p, self.scenes.count, self.seed)}" for p in positions]

    def trained(self, count: int) -> list[Image]:
        rows = range(min(count, self.scenes.count or count))
        return [self.scenes.picture(k) for k in rows]

    def unseen(self) -> tuple[list[Scene], list[Scene]]:
        """Validation scenes: of base subjects, and of held-out ones."""
        if self._unseen is None:
            seed, count, size = self._validation_seed, self._validation_images, self.scenes.size
            base = World(seed, size=size)
            others = World(seed, size=size, subjects=held_out_subjects())
            self._unseen = (
                [base.scene(k) for k in range(count)],
                [others.scene(k) for k in range(max(1, count // 2))],
            )
        return self._unseen

    def validation(self) -> dict[str, tuple[list[Image], Boxes | None]]:
        return {
            prefix: (
                [scene.image for scene in scenes],
                [[p.box for p in scene.record.placements] for scene in scenes],
            )
            for prefix, scenes in zip(("", "held_out_"), self.unseen(), strict=True)
        }


class OwnCrops:
    """Crops of the user's images, anywhere in them; an image smaller than the crop is whole."""

    def __init__(self, feed: Feed, *, crop: int, seed: int, validation_images: int) -> None:
        self.feed, self.crop, self.seed = feed, crop, seed
        self._validation_images = validation_images
        self._held_out: list[Image] | None = None

    @property
    def summary(self) -> dict[str, Any]:
        return self.feed.summary

    @property
    def fingerprint(self) -> str:
        return self.feed.fingerprint

    def crops(self, positions: Sequence[int]) -> tuple[Image, NDArray[np.int16]]:
        whole = self.feed.samples(positions).images
        assert whole is not None
        height, width = (min(self.crop, side) for side in whole.shape[1:3])
        images = np.empty((len(whole), height, width, 3), np.uint8)
        for k, position in enumerate(positions):
            draw = seeding.generator(self.seed, "crop", position)
            y = int(draw.integers(whole.shape[1] - height + 1))
            x = int(draw.integers(whole.shape[2] - width + 1))
            images[k] = whole[k, y : y + height, x : x + width]
        return images, np.zeros((len(whole), MAX_BOXES, 4), np.int16)

    def names(self, positions: Sequence[int]) -> list[str]:
        return self.feed.names(positions)

    def trained(self, count: int) -> list[Image]:
        return [entry.image for entry in self.feed.trained(count)]

    def validation(self) -> dict[str, tuple[list[Image], Boxes | None]]:
        if self._held_out is None:
            entries = self.feed.held_out(self._validation_images)
            self._held_out = [entry.image for entry in entries]
        return {"": (self._held_out, None)} if self._held_out else {}
