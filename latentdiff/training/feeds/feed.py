"""What the task trains on: which sample a position sees, its picture or latents, and its caption.

Two kinds, scenes and the user's own pictures; both are pure functions of (run seed, position).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentdiff import seeding
from latentdiff.data.rendered.pool_latents import PoolLatents
from latentdiff.data.rendered.scene_pictures import PoolPictures, open_pictures, row_of
from latentdiff.errors import UserError
from latentdiff.scenes.captions import caption, prompt
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.world import World
from latentdiff.training.frozen import encoder_hash
from latentdiff.training.tasks.text_to_image.networks import Networks
from latentdiff.training.tasks.text_to_image.text_to_image_config import TextToImageConfig


@dataclass(frozen=True, kw_only=True)
class Visits:
    """The samples that some positions see, all of one size.

    captions: n strings, "" where the caption is dropped. Either pictures (n, H, W, 3) uint8 or
    moments (n, 2C, h, w) float32. contexts: n of (k·L, D) float32 where they are cached, k being
    the chunks that the caption takes.
    """

    captions: tuple[str, ...]
    pictures: NDArray[np.uint8] | None = None
    moments: NDArray[np.float32] | None = None
    contexts: tuple[NDArray[np.float32], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A picture (H, W, 3) uint8 for validation, with its caption, never dropped."""

    id: str
    picture: NDArray[np.uint8]
    caption: str


class Feed(Protocol):
    """Where samples come from; see the module's docstring."""

    @property
    def summary(self) -> dict[str, Any]:
        """What the run's report says of the data; plain values."""
        ...

    @property
    def fingerprint(self) -> str:
        """What must be the same for a run to go on, on all its processes."""
        ...

    def visit(self, positions: Sequence[int]) -> Visits:
        """The samples that these positions see; they share one size."""
        ...

    def names(self, positions: Sequence[int]) -> list[str]:
        """The ids of the samples that these positions see, for a person."""
        ...

    def trained(self, count: int) -> list[Entry]:
        """At most `count` fixed pictures that are trained on."""
        ...

    def held_out(self, count: int) -> list[Entry]:
        """At most `count` fixed pictures that are not."""
        ...

    def prompts(self) -> tuple[str, ...]:
        """Prompts worth a sample sheet."""
        ...

    def words(self) -> tuple[str, ...]:
        """Words of the captions that a fresh text encoder may not have met; for a model's card."""
        ...


SHEET_PROMPTS = (
    "a cat in the snow",
    "a dog on the beach",
    "a penguin in the desert",
    "a robot in the city",
    "a rocket in space",
    "a fox in the forest",
    "an octopus underwater",
    "a castle at night",
)


class SceneFeed:
    """Procedural scenes: the endless world, or a rendered pool with or without its latents."""

    def __init__(self, config: TextToImageConfig, networks: Networks) -> None:
        self.config = config
        self.seed = config.train.seed
        self.size = networks.size
        self.pictures = open_pictures(
            pool=config.pool, rows=0, world_seed=config.world_seed, size=self.size
        )
        self.latents = self._open_latents(config.cache, networks)

    def _open_latents(self, cache: Path | None, networks: Networks) -> PoolLatents | None:
        if cache is None:
            return None
        assert isinstance(self.pictures, PoolPictures)
        latents = PoolLatents(
            cache,
            encoder_hash=encoder_hash(networks.vae),
            fingerprint=self.pictures.pool.fingerprint,
        )
        side = networks.size // 2 ** (len(networks.vae.config.block_out_channels) - 1)
        expected = (2 * int(networks.vae.config.latent_channels), side, side)
        if latents.shape != expected:
            raise UserError(f"{cache} holds moments {latents.shape}, not {expected}")
        return latents

    @property
    def summary(self) -> dict[str, Any]:
        count = self.pictures.count
        return {
            "source": f"scenes of world {self.config.world_seed}",
            "pictures": "endless" if count is None else count,
            "size": f"{self.size}x{self.size}",
        }

    @property
    def fingerprint(self) -> str:
        if isinstance(self.pictures, PoolPictures):
            return self.pictures.pool.fingerprint
        return f"world {self.config.world_seed}, {self.size} px"

    def visit(self, positions: Sequence[int]) -> Visits:
        rows = [row_of(position, self.pictures.count, self.seed) for position in positions]
        captions = tuple(self._caption(r, p) for r, p in zip(rows, positions, strict=True))
        if self.latents is None:
            pictures = np.stack([self.pictures.picture(row) for row in rows])
            return Visits(captions=captions, pictures=pictures)
        return Visits(captions=captions, moments=self.latents.moments(np.asarray(rows)))

    def names(self, positions: Sequence[int]) -> list[str]:
        return [f"scene {row_of(p, self.pictures.count, self.seed)}" for p in positions]

    def _caption(self, row: int, position: int) -> str:
        """A fresh caption at every visit, or none at all."""
        draw = seeding.generator(self.seed, "caption", position)
        if draw.random() < self.config.captions.caption_dropout:
            return ""
        return caption(self.pictures.record(row), draw)

    def trained(self, count: int) -> list[Entry]:
        if self.pictures.count is None:
            return []
        rows = range(min(count, self.pictures.count))
        return [
            _entry(f"pool {k}", self.pictures.picture(k).copy(), self.pictures.record(k))
            for k in rows
        ]

    def held_out(self, count: int) -> list[Entry]:
        world = World(self.config.validation_seed, size=self.size)
        scenes = [world.scene(k) for k in range(count)]
        return [_entry(f"unseen {k}", s.image, s.record) for k, s in enumerate(scenes)]

    def prompts(self) -> tuple[str, ...]:
        return SHEET_PROMPTS

    def words(self) -> tuple[str, ...]:
        return ()


def _entry(name: str, picture: NDArray[np.uint8], record: SceneRecord) -> Entry:
    text = prompt(record.subjects, record.setting, record.relation)
    return Entry(id=name, picture=picture, caption=text)
