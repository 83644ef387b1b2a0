"""How long a training waits for a cache of made-up rows, in how much memory, and how fast it reads.

`fill` publishes as many moments, contexts and contents as there are rows, in as many shards as
Stable Diffusion's latents of that number would take, but with values of a few bytes: opening reads
none of them, and reading them shows what the bookkeeping costs, not the disk.

    python -m latentdiff.bench.made_up_cache ROWS FOLDER

opens one as a training does, and answers with a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from latentdiff.training.feeds.encode_cache import Encoders

SHARD_ROWS = 2048
"""Rows of 8x64x64 float32 moments that fill a shard."""
READS = 20_000
"""Rows that are read, in any order: many of each shard of a million rows."""
BUCKETS = [(512, 512), (576, 448), (448, 576), (640, 384), (384, 640)]


class MadeUp:
    """A source of rows whose every property follows from their number."""

    problems = ()

    def __init__(self, count: int) -> None:
        self.count = count
        self.name = self.summary = f"{count} made-up rows"

    def __len__(self) -> int:
        return self.count

    def id(self, row: int) -> str:
        """A file's name."""
        return f"{row:07d}.jpg"

    def captions(self, row: int) -> tuple[str, ...]:
        """One caption, of its own."""
        return (f"a photo of thing {row % 1000} beside thing {row // 1000} in the afternoon",)

    def read(self, row: int) -> bytes:
        """Never asked for: the cache is full."""
        raise AssertionError("a full cache reads no picture")

    def stamp(self, row: int) -> str:
        """Path, size and time of the file that is not there."""
        return f"/data/pictures/{row:07d}.jpg 123456 {row}"


def digest(row: int) -> bytes:
    """Of the row's content."""
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


def networks() -> Encoders:
    """Tiny ones, the same in every process: only their hashes count."""
    import torch
    from transformers import CLIPTextModel

    from latentdiff.models import presets
    from latentdiff.models.tokenizer import build_tokenizer
    from latentdiff.training.feeds.encode_cache import Encoders

    torch.manual_seed(0)
    tokenizer = build_tokenizer(("photo", "thing"), presets.get("tiny").max_length)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    clip = presets.build_clip("tiny", len(tokenizer), **ids)
    text_encoder = CLIPTextModel(clip.config.text_config)
    return Encoders(vae=presets.build_vae("tiny"), text_encoder=text_encoder, tokenizer=tokenizer)


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
    rows = np.random.default_rng(0).integers(0, count, READS).tolist()
    clock = time.perf_counter()
    for row in rows:
        assert view.moments(row)[0, 0, 0] == row
        assert view.context(source.captions(row)[0])[0, 0] == row
    told["samples a second"] = len(rows) / (time.perf_counter() - clock)
    return told


if __name__ == "__main__":
    print(json.dumps(start(Path(sys.argv[2]), int(sys.argv[1]))))
