"""A pool of rendered scenes on disk, readable while it is still being built.

Rendering a scene costs milliseconds and training reads each one many times, so a pool keeps the
pictures as one memory-mapped array:

    pool.json     what was asked for: world seed, first scene, count, size, subjects
    pixels.npy    (N, S, S, 3) uint8, sRGB
    records.npy   (N,) fixed-width bytes, each scene's record as JSON
    digests.npy   (chunks,) 32 bytes each, BLAKE2b of a chunk's pixels and records; zero = not done

Row i holds scene `start + i`. A chunk's digest is written after its rows, so what `ready` counts
is whole; the digests together are the pool's fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff import files
from latentdiff.errors import UserError
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.world import World

CHUNK = 256
"""Rows that one worker renders, and declares ready, at a time."""
RECORD_BYTES = 512
"""Width of a record's JSON; padded with zero bytes."""
SPEC, PIXELS, RECORDS, DIGESTS = "pool.json", "pixels.npy", "records.npy", "digests.npy"


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    """What a pool holds: scenes `start` … `start + count - 1` of world `world_seed`."""

    world_seed: int
    count: int
    start: int = 0
    size: int = 128
    subjects: tuple[str, ...] | None = None
    hold_out_pairs: bool = True
    lively: bool = False
    pair_rate: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.start < 0:
            raise UserError(
                f"a pool of {self.count} scenes from {self.start} on was asked for; "
                "it needs at least one scene, from 0 on"
            )

    @property
    def chunks(self) -> int:
        return -(-self.count // CHUNK)

    def world(self) -> World:
        """The world that this pool shows."""
        return World(
            self.world_seed,
            size=self.size,
            subjects=self.subjects,
            hold_out_pairs=self.hold_out_pairs,
            lively=self.lively,
            pair_rate=self.pair_rate,
        )


class PixelPool:
    """Read access to a pool; cheap to open, safe to use from many processes."""

    def __init__(self, folder: str | Path) -> None:
        """Open the pool in `folder`. Raises UserError when there is none."""
        self.folder = Path(folder)
        self.spec = _read_spec(self.folder)
        self._pixels = np.load(self.folder / PIXELS, mmap_mode="r")
        self._records = np.load(self.folder / RECORDS, mmap_mode="r")
        self._digests = np.load(self.folder / DIGESTS, mmap_mode="r")

    def __reduce__(self) -> tuple[type[PixelPool], tuple[Path]]:
        """Another process opens the folder anew; a memory map would be copied whole."""
        return PixelPool, (self.folder,)

    def __len__(self) -> int:
        return self.spec.count

    @property
    def size(self) -> int:
        """Side of a picture in pixels."""
        return self.spec.size

    @property
    def ready(self) -> int:
        """Rows 0 … ready - 1 are there."""
        done = self._digests.any(axis=1)
        whole = len(done) if done.all() else int(done.argmin())
        return min(whole * CHUNK, self.spec.count)

    @property
    def complete(self) -> bool:
        return self.ready == self.spec.count

    def wait(self, rows: int, *, minutes: float = 60.0) -> None:
        """Sleep until the first `rows` rows are there.

        UserError after `minutes` without one more.
        """
        rows = min(rows, self.spec.count)
        last, since = -1, time.monotonic()
        while (ready := self.ready) < rows:
            if ready > last:
                last, since = ready, time.monotonic()
            elif time.monotonic() - since > 60 * minutes:
                raise UserError(
                    f"{self.folder} holds {ready} of the {rows} scenes that are needed and does "
                    "not grow; run `latentdiff scenes render` on it to finish it"
                )
            time.sleep(0.2)

    @property
    def fingerprint(self) -> str:
        """BLAKE2b of the whole content, 64 hexadecimal digits. The pool must be complete."""
        if not self.complete:
            raise UserError(f"{self.folder} is still being rendered: {self.ready} of {len(self)}")
        return hashlib.blake2b(
            np.ascontiguousarray(self._digests).tobytes(), digest_size=32
        ).hexdigest()

    def picture(self, row: int) -> NDArray[np.uint8]:
        """Picture (S, S, 3) uint8 of a row; a view that must not be written to."""
        return self._pixels[row]

    def pictures(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Pictures (n, S, S, 3) uint8 of some rows, copied."""
        return np.stack([self._pixels[row] for row in rows])

    def record(self, row: int) -> SceneRecord:
        """What the picture of a row shows."""
        return SceneRecord.from_json(json.loads(bytes(self._records[row])))


def build_pool(
    folder: str | Path,
    *,
    world_seed: int,
    count: int,
    workers: int,
    size: int = 128,
    start: int = 0,
    subjects: Sequence[str] | None = None,
    hold_out_pairs: bool = True,
    lively: bool = False,
    pair_rate: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PixelPool:
    """Render scenes `start` … `start + count - 1` into a pool, with `workers` processes.

    A folder with the same pool half-built is finished; one with another pool is refused.
    progress: called with (rows done, rows in all) after every chunk.
    """
    folder = Path(folder)
    spec = PoolSpec(
        world_seed=world_seed,
        count=count,
        start=start,
        size=size,
        subjects=None if subjects is None else tuple(subjects),
        hold_out_pairs=hold_out_pairs,
        lively=lively,
        pair_rate=pair_rate,
    )
    with files.FolderLock(folder):
        _allocate(folder, spec)
        missing = [c for c, digest in enumerate(np.load(folder / DIGESTS)) if not digest.any()]
        done = spec.chunks - len(missing)
        if workers <= 1:
            for chunk in missing:
                render_chunk(folder, spec, chunk)
                done += 1
                _tell(progress, done, spec)
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(workers, max(1, len(missing))), context) as pool:
                jobs = [pool.submit(render_chunk, folder, spec, chunk) for chunk in missing]
                for job in jobs:
                    job.result()
                    done += 1
                    _tell(progress, done, spec)
    return PixelPool(folder)


def _tell(progress: Callable[[int, int], None] | None, chunks: int, spec: PoolSpec) -> None:
    if progress is not None:
        progress(min(chunks * CHUNK, spec.count), spec.count)


def render_chunk(folder: Path, spec: PoolSpec, chunk: int) -> None:
    """Render one chunk's rows in place, then its digest."""
    world = spec.world()
    pixels = np.lib.format.open_memmap(folder / PIXELS, mode="r+")
    records = np.lib.format.open_memmap(folder / RECORDS, mode="r+")
    digest = hashlib.blake2b(digest_size=32)
    for row in range(chunk * CHUNK, min((chunk + 1) * CHUNK, spec.count)):
        scene = world.scene(spec.start + row)
        text = _record_bytes(scene.record)
        pixels[row] = scene.image
        records[row] = text
        digest.update(scene.image.tobytes())
        digest.update(text)
    digests = np.lib.format.open_memmap(folder / DIGESTS, mode="r+")
    digests[chunk] = np.frombuffer(digest.digest(), np.uint8)
    digests.flush()


def _record_bytes(record: SceneRecord) -> bytes:
    text = json.dumps(record.to_json(), separators=(",", ":")).encode("utf-8")
    assert len(text) <= RECORD_BYTES, f"a record takes {len(text)} bytes, {RECORD_BYTES} are kept"
    return text


def _allocate(folder: Path, spec: PoolSpec) -> None:
    if (folder / SPEC).exists():
        found = _read_spec(folder)
        if found != spec:
            raise UserError(
                f"{folder} holds another pool ({found.count} scenes from {found.start} of world "
                f"{found.world_seed}, {found.size} px); choose another folder"
            )
        return
    shape = (spec.count, spec.size, spec.size, 3)
    np.lib.format.open_memmap(folder / PIXELS, mode="w+", dtype=np.uint8, shape=shape)
    width = np.dtype(f"S{RECORD_BYTES}")
    np.lib.format.open_memmap(folder / RECORDS, mode="w+", dtype=width, shape=(spec.count,))
    np.lib.format.open_memmap(folder / DIGESTS, mode="w+", dtype=np.uint8, shape=(spec.chunks, 32))
    files.write_json(folder / SPEC, asdict(spec))


def _read_spec(folder: Path) -> PoolSpec:
    try:
        found = json.loads((folder / SPEC).read_text("utf-8"))
        subjects = found.pop("subjects")
        return PoolSpec(subjects=None if subjects is None else tuple(subjects), **found)
    except FileNotFoundError:
        raise UserError(
            f"no pool of scenes in {folder}; make one with `latentdiff scenes render {folder}`"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / SPEC} cannot be read ({error}); remove the folder") from error
