"""Where a training task's pictures come from: a pool on disk, or the world itself, endless.

Both give `picture(row)`, `record(row)`, `size` and `count` (None when endless). Which row a
position of the run sees is `row_of`: every row once an epoch, in a fresh order each epoch.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latentdiff import seeding
from latentdiff.data.rendered.pixel_pool import PixelPool
from latentdiff.errors import UserError
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.world import World


class Pictures(Protocol):
    """Captionable pictures by row."""

    @property
    def size(self) -> int: ...

    @property
    def count(self) -> int | None: ...

    def picture(self, row: int) -> NDArray[np.uint8]: ...

    def record(self, row: int) -> SceneRecord: ...


class WorldPictures:
    """The endless world: each row is rendered when it is asked for."""

    count: int | None = None

    def __init__(self, world: World, size: int) -> None:
        self.world = world
        self.size = size

    def picture(self, row: int) -> NDArray[np.uint8]:
        """Picture (S, S, 3) uint8."""
        return self.world.scene(row).image

    def record(self, row: int) -> SceneRecord:
        return self.world.record(row)


class PoolPictures:
    """The first `rows` rows of a pool (0: all of them); waits until they are rendered."""

    def __init__(self, pool: PixelPool, rows: int = 0) -> None:
        self.pool = pool
        self.count: int | None = min(rows, len(pool)) if rows else len(pool)
        pool.wait(self.count)

    @property
    def size(self) -> int:
        return self.pool.size

    def picture(self, row: int) -> NDArray[np.uint8]:
        """Picture (S, S, 3) uint8."""
        return self.pool.picture(row)

    def record(self, row: int) -> SceneRecord:
        return self.pool.record(row)


def open_pictures(
    *, pool: Path | None, rows: int, world_seed: int, size: int
) -> WorldPictures | PoolPictures:
    """The pool's pictures when a pool is given, the endless world's otherwise."""
    if pool is not None:
        found = PixelPool(pool)
        if found.size != size:
            raise UserError(f"{pool} holds {found.size} px pictures; {size} px ones are needed")
        return PoolPictures(found, rows)
    return WorldPictures(World(world_seed, size=size), size)


def row_of(position: int, count: int | None, run_seed: int) -> int:
    """The row that a position of the run sees; an endless source is walked in order."""
    if count is None:
        return position
    return int(_order(count, run_seed, position // count)[position % count])


@functools.lru_cache(maxsize=2)
def _order(count: int, run_seed: int, epoch: int) -> NDArray[np.int64]:
    return seeding.permutation(count, run_seed, "order", epoch)
