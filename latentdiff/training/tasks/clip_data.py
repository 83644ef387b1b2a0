"""What CLIP learns from: scenes with fresh captions, or the user's captioned images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentdiff import seeding
from latentdiff.data.rendered.scene_pictures import PoolPictures, WorldPictures, row_of
from latentdiff.scenes.captions import caption, prompt_of
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.world import World
from latentdiff.training.feeds.feed import Feed


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Images (n, H, W, 3) uint8 with a caption each.

    groups: n numbers, equal where the same captions are true: those pairs are positives.
    """

    images: NDArray[np.uint8]
    captions: tuple[str, ...]
    groups: tuple[int, ...]


class PairedData(Protocol):
    """Image-caption pairs by position, and fixed ones that are not trained on."""

    @property
    def summary(self) -> dict[str, Any]:
        """What the run's report says of the data."""
        ...

    @property
    def fingerprint(self) -> str:
        """What must be the same for a run to go on."""
        ...

    def pairs(self, positions: Sequence[int]) -> Pairs:
        """The pairs at these positions."""
        ...

    def names(self, positions: Sequence[int]) -> list[str]:
        """What a report calls the samples at these positions."""
        ...

    def unseen(self) -> Pairs | None:
        """Fixed pairs for validation, if there are any."""
        ...


class ScenePairs:
    """Scenes, a fresh caption for every position; same subjects, setting and relation agree."""

    def __init__(
        self,
        scenes: PoolPictures | WorldPictures,
        *,
        seed: int,
        validation_seed: int,
        validation_images: int,
    ) -> None:
        self.scenes, self.seed = scenes, seed
        self._validation_seed, self._validation_images = validation_seed, validation_images

    @property
    def summary(self) -> dict[str, Any]:
        count = self.scenes.count
        return {"source": "scenes", "pictures": "endless" if count is None else count}

    @property
    def fingerprint(self) -> str:
        return ""

    def pairs(self, positions: Sequence[int]) -> Pairs:
        rows = [row_of(position, self.scenes.count, self.seed) for position in positions]
        records = [self.scenes.record(row) for row in rows]
        return Pairs(
            images=np.stack([self.scenes.picture(row) for row in rows]),
            captions=tuple(
                caption(record, seeding.generator(self.seed, "caption", position))
                for record, position in zip(records, positions, strict=True)
            ),
            groups=tuple(group_of(record) for record in records),
        )

    def names(self, positions: Sequence[int]) -> list[str]:
        return [f"scene {row_of(p, self.scenes.count, self.seed)}" for p in positions]

    def unseen(self) -> Pairs | None:
        world = World(self._validation_seed, size=self.scenes.size)
        scenes = [world.scene(k) for k in range(self._validation_images)]
        records = [scene.record for scene in scenes]
        return Pairs(
            images=np.stack([scene.image for scene in scenes]),
            captions=tuple(prompt_of(r) for r in records),
            groups=tuple(group_of(record) for record in records),
        )


class OwnPairs:
    """The user's images and captions; those with one caption agree."""

    def __init__(self, feed: Feed, *, validation_images: int) -> None:
        self.feed, self._validation_images = feed, validation_images

    @property
    def summary(self) -> dict[str, Any]:
        return self.feed.summary

    @property
    def fingerprint(self) -> str:
        return self.feed.fingerprint

    def pairs(self, positions: Sequence[int]) -> Pairs:
        samples = self.feed.samples(positions)
        assert samples.images is not None
        return Pairs(
            images=samples.images,
            captions=samples.captions,
            groups=tuple(number_of(text) for text in samples.captions),
        )

    def names(self, positions: Sequence[int]) -> list[str]:
        return self.feed.names(positions)

    def unseen(self) -> Pairs | None:
        entries = self.feed.held_out(self._validation_images)
        if not entries:
            return None
        return Pairs(
            images=np.stack([entry.image for entry in entries]),
            captions=tuple(entry.caption for entry in entries),
            groups=tuple(number_of(entry.caption) for entry in entries),
        )


def group_of(record: SceneRecord) -> int:
    """A number that is equal for records which the same captions are true of."""
    subjects, relation = record.named, record.relation or ""
    if relation == "right of":
        subjects, relation = subjects[::-1], "left of"
    return number_of("|".join((record.setting, relation, *subjects)))


def number_of(text: str) -> int:
    """A signed 64-bit hash of a text."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
