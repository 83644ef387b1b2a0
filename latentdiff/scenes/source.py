"""Many scenes at once: rendered in order by worker processes, or endlessly by one."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdiff.errors import UserError
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.world import World

_CHUNK = 32

Rendered = tuple[int, NDArray[np.uint8], SceneRecord]
"""Index, picture uint8 (size, size, 3), record."""


@dataclass(frozen=True)
class WorldSpec:
    """What it takes to build the same World in another process."""

    seed: int
    size: int
    subjects: tuple[str, ...]
    settings: tuple[str, ...]
    hold_out_pairs: bool
    lively: bool
    pair_rate: float

    @classmethod
    def of(cls, world: World) -> WorldSpec:
        """The spec of a world."""
        return cls(
            world.seed,
            world.size,
            world.subjects,
            world.settings,
            world.hold_out_pairs,
            world.lively,
            world.pair_rate,
        )

    def build(self) -> World:
        """The world of this spec."""
        return World(
            self.seed,
            size=self.size,
            subjects=self.subjects,
            settings=self.settings,
            hold_out_pairs=self.hold_out_pairs,
            lively=self.lively,
            pair_rate=self.pair_rate,
        )


_world: World | None = None


def _start(spec: WorldSpec) -> None:
    global _world
    _world = spec.build()


def _render_chunk(span: tuple[int, int]) -> tuple[int, NDArray[np.uint8], list[SceneRecord]]:
    assert _world is not None, "the pool's initializer has not run"
    scenes = [_world.scene(k) for k in range(*span)]
    return span[0], np.stack([s.image for s in scenes]), [s.record for s in scenes]


def default_workers() -> int:
    """One process for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def render_range(world: World, start: int, stop: int, workers: int = 0) -> Iterator[Rendered]:
    """Scenes start … stop - 1 in order, as (index, image, record).

    workers: processes that render; 0 renders in this one. The scenes do not depend on it.
    UserError on a negative or reversed range.
    """
    if not 0 <= start <= stop:
        raise UserError(f"found scenes {start} to {stop}, expected 0 <= start <= stop")
    if workers < 0:
        raise UserError(f"found {workers} workers, expected 0 or more")
    if workers == 0:
        for k in range(start, stop):
            scene = world.scene(k)
            yield k, scene.image, scene.record
        return
    spans = [(a, min(a + _CHUNK, stop)) for a in range(start, stop, _CHUNK)]
    # "spawn" is safe in a process that already runs threads (torch, a data loader).
    context = multiprocessing.get_context("spawn")
    count = max(1, min(workers, len(spans)))
    with context.Pool(count, initializer=_start, initargs=(WorldSpec.of(world),)) as pool:
        for first, images, records in pool.imap(_render_chunk, spans):
            for offset, record in enumerate(records):
                yield first + offset, images[offset], record


def endless(world: World, start: int = 0) -> Iterator[Rendered]:
    """Scenes from `start` on without an end, rendered as they are asked for."""
    k = start
    while True:
        scene = world.scene(k)
        yield k, scene.image, scene.record
        k += 1
