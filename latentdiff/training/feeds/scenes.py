"""Procedural scenes as a feed: the endless world, or a rendered pool, its latents cached or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdiff import seeding
from latentdiff.data.rendered.pool_latents import PoolLatents
from latentdiff.data.rendered.scene_pictures import PoolPictures, WorldPictures, row_of
from latentdiff.errors import UserError
from latentdiff.scenes.captions import caption, prompt_of
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.world import World
from latentdiff.training.feeds.feed import Entry, Samples
from latentdiff.training.frozen import encoder_hash

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

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


def open_pool_latents(cache: Path, images: PoolPictures, vae: AutoencoderKL) -> PoolLatents:
    """The pool's cached moments; UserError when they are another autoencoder's or pool's."""
    latents = PoolLatents(
        cache, encoder_hash=encoder_hash(vae), fingerprint=images.pool.fingerprint
    )
    side = images.size // 2 ** (len(vae.config.block_out_channels) - 1)
    expected = (2 * int(vae.config.latent_channels), side, side)
    if latents.shape != expected:
        raise UserError(f"{cache} holds moments {latents.shape}, not {expected}")
    return latents


class SceneFeed:
    """Scenes of a world; see `latentdiff.training.feeds.feed.Feed`.

    images: the world's, or a pool's. seed: of the run. caption_dropout: share of samples with the
    empty caption. validation_seed: world of the unseen scenes. latents: of the pool, if cached.
    """

    def __init__(
        self,
        images: WorldPictures | PoolPictures,
        *,
        world_seed: int,
        validation_seed: int,
        seed: int,
        caption_dropout: float,
        latents: PoolLatents | None = None,
    ) -> None:
        self.images, self.latents = images, latents
        self.world_seed, self.validation_seed = world_seed, validation_seed
        self.seed, self.caption_dropout = seed, caption_dropout

    @property
    def summary(self) -> dict[str, Any]:
        count, size = self.images.count, self.images.size
        return {
            "source": f"scenes of world {self.world_seed}",
            "pictures": "endless" if count is None else count,
            "size": f"{size}x{size}",
        }

    @property
    def fingerprint(self) -> str:
        if isinstance(self.images, PoolPictures):
            return self.images.pool.fingerprint
        return f"world {self.world_seed}, {self.images.size} px"

    def samples(self, positions: Sequence[int]) -> Samples:
        rows = [row_of(position, self.images.count, self.seed) for position in positions]
        captions = tuple(self._caption(r, p) for r, p in zip(rows, positions, strict=True))
        if self.latents is None:
            images = np.stack([self.images.picture(row) for row in rows])
            return Samples(captions=captions, images=images)
        return Samples(captions=captions, moments=self.latents.moments(np.asarray(rows)))

    def names(self, positions: Sequence[int]) -> list[str]:
        return [f"scene {row_of(p, self.images.count, self.seed)}" for p in positions]

    def _caption(self, row: int, position: int) -> str:
        """A fresh caption for every position, or none at all."""
        draw = seeding.generator(self.seed, "caption", position)
        if draw.random() < self.caption_dropout:
            return ""
        return caption(self.images.record(row), draw)

    def trained(self, count: int) -> list[Entry]:
        if self.images.count is None:
            return []
        rows = range(min(count, self.images.count))
        return [
            _entry(f"pool {k}", self.images.picture(k).copy(), self.images.record(k)) for k in rows
        ]

    def held_out(self, count: int) -> list[Entry]:
        world = World(self.validation_seed, size=self.images.size)
        scenes = [world.scene(k) for k in range(count)]
        return [_entry(f"unseen {k}", s.image, s.record) for k, s in enumerate(scenes)]

    def prompts(self) -> tuple[str, ...]:
        return SHEET_PROMPTS

    def words(self) -> tuple[str, ...]:
        return ()


def _entry(name: str, image: NDArray[np.uint8], record: SceneRecord) -> Entry:
    text = prompt_of(record)
    return Entry(id=name, image=image, caption=text)
