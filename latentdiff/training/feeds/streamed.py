"""Tar shards read in order as a feed, for data that are too many to list.

Position p of the run is one sample of one process's share of the stream, found by arithmetic: so
a resumed run fast-forwards to where it was, and workers read the same stream and keep their part.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.bad_samples import NAME as BAD_SAMPLES
from latentdiff.data.bad_samples import BadSamples
from latentdiff.data.buckets import Bucket
from latentdiff.data.captions import CaptionPolicy
from latentdiff.data.decode.decoding import decode
from latentdiff.data.records import BadPicture
from latentdiff.data.sources.stream import open_stream
from latentdiff.data.transforms import crop_and_flip, fit
from latentdiff.errors import UserError
from latentdiff.training.feeds.feed import Entry, Visits
from latentdiff.training.feeds.listed import entries_of, forget_bad_samples, open_named
from latentdiff.training.launch import rank
from latentdiff.training.tasks.text_to_image.networks import Networks
from latentdiff.training.tasks.text_to_image.text_to_image_config import TextToImageConfig

COUNTED = 10_000
"""A stream's length is unknown: the share of bad samples is taken of so many at least."""


def place_in_share(
    position: int, *, batch_size: int, micro_batches: int, processes: int
) -> tuple[int, int]:
    """(process, index in its share of the stream) of a position, as `Positions` deals them."""
    step, within = divmod(position, batch_size)
    micro, within = divmod(within, batch_size // micro_batches)
    size = batch_size // (micro_batches * processes)
    process, within = divmod(within, size)
    return process, step * (batch_size // processes) + micro * size + within


class StreamedPictures:
    """A stream; see `latentdiff.training.feeds.feed.Feed`."""

    def __init__(self, config: TextToImageConfig, networks: Networks, run: Path) -> None:
        self.config, self.pictures = config, config.pictures
        self.seed = config.train.seed
        self.policy = CaptionPolicy(config.captions, self.seed)
        resolution = self.pictures.sizes.resolution or networks.size
        self.bucket = Bucket(resolution, resolution)
        self.multiple = networks.multiple
        if resolution % self.multiple:
            raise UserError(
                f"resolution is {resolution}; the model needs a multiple of {self.multiple}"
            )
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        assert self.pictures.data is not None
        self.stream = open_stream(
            self.pictures.data,
            rank=rank(),
            world_size=self.processes,
            seed=self.seed,
            shuffle_buffer=self.pictures.shuffle_buffer,
            split=self.pictures.source.split,
            caption_template=self.pictures.source.caption_template,
            caption_column=self.pictures.source.caption_column,
            image_column=self.pictures.source.image_column,
        )
        forget_bad_samples(run)
        self.bad = BadSamples(
            run / BAD_SAMPLES, total=COUNTED, limit=self.pictures.bad_sample_limit
        )

    @property
    def summary(self) -> dict[str, Any]:
        return {
            "source": self.stream.summary,
            "buckets": f"one, {self.bucket}: a stream is not sorted",
        }

    @property
    def fingerprint(self) -> str:
        return self.stream.fingerprint

    def visit(self, positions: Sequence[int]) -> Visits:
        found: list[tuple[str, NDArray[np.uint8]] | None] = []
        for position in positions:
            found.append(self._one(position))
        good = [sample for sample in found if sample is not None]
        if not good:
            raise UserError(f"no sample of a batch can be used; the reasons are in {self.bad.path}")
        # A bad sample's place is taken by a good one of the batch, so that nothing else moves.
        whole = [sample or good[k % len(good)] for k, sample in enumerate(found)]
        return Visits(
            captions=tuple(caption for caption, _ in whole),
            pictures=np.stack([picture for _, picture in whole]),
        )

    def names(self, positions: Sequence[int]) -> list[str]:
        return [f"sample {position} of the stream" for position in positions]

    def _one(self, position: int) -> tuple[str, NDArray[np.uint8]] | None:
        train = self.config.train
        _, index = place_in_share(
            position,
            batch_size=train.batch_size,
            micro_batches=train.gradient_accumulation,
            processes=self.processes,
        )
        name, captions, data = self.stream.sample(index)
        u, _ = crop_and_flip(self.seed, position, crop=self.config.crop)
        try:
            picture = self._cut(data, u)
        except BadPicture as problem:
            self.bad.add(name, problem)
            return None
        return self.policy.pick(captions, position), picture

    def _cut(self, data: bytes, u: tuple[float, float] = (0.5, 0.5)) -> NDArray[np.uint8]:
        return fit(decode(data).image, self.bucket, u=u, upscale=self.pictures.sizes.upscale)

    def trained(self, count: int) -> list[Entry]:
        entries: list[Entry] = []
        for name, captions, data in self.stream.samples(0):
            if len(entries) == count:
                break
            try:
                picture = self._cut(data)
            except BadPicture as problem:
                self.bad.add(name, problem)
                continue
            text = next(iter(self.policy.texts(captions)), "")
            entries.append(Entry(id=name, picture=picture, caption=text))
        return entries

    def held_out(self, count: int) -> list[Entry]:
        if self.pictures.validation_data is None:
            return []
        source = open_named(self.pictures, self.pictures.validation_data)
        return entries_of(
            source,
            range(len(source)),
            count,
            buckets=[self.bucket],
            multiple=self.multiple,
            upscale=self.pictures.sizes.upscale,
            policy=self.policy,
            bad=self.bad,
        )

    def prompts(self) -> tuple[str, ...]:
        texts = dict.fromkeys(entry.caption for entry in self.trained(8))
        return tuple(texts) or ("",)

    def words(self) -> tuple[str, ...]:
        return ()
