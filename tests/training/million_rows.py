"""How long a training waits for a cache of made-up rows, and in how much memory.

    python tests/training/million_rows.py [ROWS]

Fills a cache with as many moments, contexts and contents as there are rows, in as many shards as
Stable Diffusion's latents of that number would take, but with values of a few bytes: opening reads
none of them. Then another process opens it as a training does, and says what that took.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHARD_ROWS = 2048
"""Rows of 8x64x64 float32 moments that fill a shard."""
BUCKETS = [(512, 512), (576, 448), (448, 576), (640, 384), (384, 640)]


class MadeUp:
    """Rows whose every property follows from their number."""

    problems = ()

    def __init__(self, count: int) -> None:
        self.count = count
        self.name = self.summary = f"{count} made-up rows"

    def __len__(self) -> int:
        return self.count

    def id(self, row: int) -> str:
        return f"{row:07d}.jpg"

    def captions(self, row: int) -> tuple[str, ...]:
        return (f"a photo of thing {row % 1000} beside thing {row // 1000} in the afternoon",)

    def read(self, row: int) -> bytes:
        raise AssertionError("a full cache reads no picture")

    def stamp(self, row: int) -> str:
        return f"/data/pictures/{row:07d}.jpg 123456 {row}"


def digest(row: int) -> bytes:
    return hashlib.sha256(b"%d" % row).digest()


def fill(folder: Path, count: int) -> None:
    """Publish shards with the keys that `start` will ask for."""
    from latentdiff.data.cache import keys as cache_keys
    from latentdiff.data.cache.latent_cache import CONTENTS, CONTEXTS, MOMENTS, LatentCache
    from latentdiff.data.cache.shards import write_shard
    from latentdiff.training.feeds import encode_cache

    LatentCache(folder, create=True)
    source, parts = MadeUp(count), networks()
    vae_id = encode_cache.vae_identity(parts.vae, parts.precision)
    text_id = encode_cache.text_identity(parts.text_encoder, parts.tokenizer, parts.long_captions)
    transform = encode_cache.picture_transform()
    value = np.zeros((8, 1, 1), np.float32)
    for first in range(0, count, SHARD_ROWS):
        rows = range(first, min(first + SHARD_ROWS, count))
        write_shard(
            folder / CONTENTS,
            CONTENTS,
            [cache_keys.stamp_key(source.stamp(row)) for row in rows],
            [
                np.frombuffer(
                    digest(row) + np.array(BUCKETS[row % len(BUCKETS)], "<i4").tobytes(), np.uint8
                )
                for row in rows
            ],
        )
        write_shard(
            folder / MOMENTS,
            MOMENTS,
            [
                cache_keys.picture_key(
                    digest(row), transform, BUCKETS[row % len(BUCKETS)], False, vae_id
                )
                for row in rows
            ],
            [value + row for row in rows],
        )
        captions = [source.captions(row)[0] for row in rows]
        write_shard(
            folder / CONTEXTS,
            CONTEXTS,
            [cache_keys.text_key(caption, text_id) for caption in captions],
            [np.full((1, 4), row, np.float32) for row in rows],
        )
    write_shard(
        folder / CONTEXTS, CONTEXTS, [cache_keys.text_key("", text_id)], [np.zeros((1, 4), "f4")]
    )


def networks():
    import tiny

    from latentdiff.training.feeds.encode_cache import Encoders

    bundle = tiny.tiny()
    return Encoders(vae=bundle.vae, text_encoder=bundle.text_encoder, tokenizer=bundle.tokenizer)


def megabytes() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def start(folder: Path, count: int) -> dict[str, float]:
    """Open the cache as a training does; seconds of each stage, and memory."""
    from latentdiff.data.buckets import Bucket, assign
    from latentdiff.data.cache.latent_cache import LatentCache
    from latentdiff.data.captions import CaptionConfig, CaptionPolicy
    from latentdiff.training.feeds.encode_cache import Wanted, ensure_cache, scan

    parts = networks()
    source = MadeUp(count)
    told: dict[str, float] = {"MB before": megabytes()}
    clock, cpu = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        nonlocal clock
        told[name] = time.perf_counter() - clock
        clock = time.perf_counter()

    begun = clock
    cache = LatentCache(folder)
    contents = scan(cache, source)
    lap("scan")
    plan = assign(contents.sizes, [Bucket(*b) for b in BUCKETS], multiple=64)
    lap("buckets")
    texts = CaptionPolicy(CaptionConfig(), 0).texts
    wanted = Wanted(source=source, contents=contents, plan=plan, texts=texts)
    view = ensure_cache(cache, wanted, parts)
    lap("open")
    told["seconds"] = time.perf_counter() - begun
    told["CPU seconds"] = time.process_time() - cpu
    told["MB"] = megabytes()
    assert not view.bad
    rows = np.random.default_rng(0).integers(0, count, 2000).tolist()
    clock = time.perf_counter()
    for row in rows:
        assert view.moments(row)[0, 0, 0] == row
        assert view.context(source.captions(row)[0])[0, 0] == row
    told["ms a sample"] = (time.perf_counter() - clock) / len(rows) * 1000
    return told


def measure(count: int) -> dict[str, float]:
    """Fill a cache in a temporary folder and start on it in a fresh process."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "cache"
        fill(folder, count)
        command = [sys.executable, __file__, str(count), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    if len(sys.argv) > 2:
        print(json.dumps(start(Path(sys.argv[2]), rows)))
    else:
        for name, value in measure(rows).items():
            print(f"{name:<12}{value:10.2f}")
