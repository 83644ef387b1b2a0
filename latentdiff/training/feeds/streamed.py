"""Tar shards read in order as a feed, for data that are too many to list.

A position of the run is one sample of one process's share of the stream, found by arithmetic
(`Positions.in_share`): so a resumed run fast-forwards to where it was, and workers read the same
stream and keep their part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.bad_samples import NAME as BAD_SAMPLES
from latentdiff.data.bad_samples import BadSamples
from latentdiff.data.buckets import Bucket
from latentdiff.data.decode.decoding import decode
from latentdiff.data.records import BadPicture
from latentdiff.data.sources.stream import open_stream
from latentdiff.data.transforms import CENTER, crop_and_flip, fit
from latentdiff.errors import UserError
from latentdiff.training.context import RunContext
from latentdiff.training.feeds.feed import Entry, Samples
from latentdiff.training.feeds.fixed_entries import entries_of
from latentdiff.training.feeds.settings import FeedSettings

COUNTED = 10_000
"""A stream's length is unknown: the share of bad samples is taken of so many at least."""


class StreamedImages:
    """A stream; see `latentdiff.training.feeds.feed.Feed`."""

    def __init__(self, settings: FeedSettings, context: RunContext) -> None:
        self.settings, self.data, self.seed = settings, settings.data, settings.seed
        self.policy = settings.policy()
        self.positions = context.positions
        resolution = self.data.sizes.resolution or settings.size
        self.bucket = Bucket(resolution, resolution)
        if resolution % settings.multiple:
            raise UserError(
                f"resolution is {resolution}; the model needs a multiple of {settings.multiple}"
            )
        assert self.data.data is not None
        source = self.data.source
        self.stream = open_stream(
            self.data.data,
            rank=context.team.rank,
            world_size=context.team.world_size,
            seed=self.seed,
            shuffle_buffer=self.data.shuffle_buffer,
            split=source.split,
            caption_template=source.caption_template,
            caption_column=source.caption_column,
            image_column=source.image_column,
        )
        self.bad = BadSamples(
            context.folder / BAD_SAMPLES, total=COUNTED, limit=self.data.bad_sample_limit
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

    def samples(self, positions: Sequence[int]) -> Samples:
        found = [self._one(position) for position in positions]
        good = [sample for sample in found if sample is not None]
        if not good:
            raise UserError(f"no sample of a batch can be used; the reasons are in {self.bad.path}")
        # A bad sample's place is taken by a good one of the batch, so that nothing else moves.
        whole = [sample or good[k % len(good)] for k, sample in enumerate(found)]
        return Samples(
            captions=tuple(caption for caption, _ in whole),
            images=np.stack([image for _, image in whole]),
        )

    def names(self, positions: Sequence[int]) -> list[str]:
        return [f"sample {position} of the stream" for position in positions]

    def _one(self, position: int) -> tuple[str, NDArray[np.uint8]] | None:
        name, captions, data = self.stream.sample(self.positions.in_share(position))
        u, _ = crop_and_flip(self.seed, position, crop=self.settings.crop)
        try:
            image = self._cut(data, u)
        except BadPicture as problem:
            self.bad.add(name, problem)
            return None
        return self.policy.pick(captions, position), image

    def _cut(self, data: bytes, u: tuple[float, float] = CENTER) -> NDArray[np.uint8]:
        return fit(decode(data).image, self.bucket, u=u, upscale=self.settings.upscale)

    def trained(self, count: int) -> list[Entry]:
        entries: list[Entry] = []
        for name, captions, data in self.stream.samples(0):
            if len(entries) == count:
                break
            try:
                image = self._cut(data)
            except BadPicture as problem:
                self.bad.add(name, problem)
                continue
            text = next(iter(self.policy.texts(captions)), "")
            entries.append(Entry(id=name, image=image, caption=text))
        return entries

    def held_out(self, count: int) -> list[Entry]:
        if self.data.validation_data is None:
            return []
        source = self.settings.open(self.data.validation_data)
        return entries_of(
            source,
            range(len(source)),
            count,
            settings=self.settings,
            buckets=[self.bucket],
            bad=self.bad,
        )

    def prompts(self) -> tuple[str, ...]:
        texts = dict.fromkeys(entry.caption for entry in self.trained(8))
        return tuple(texts) or ("",)

    def words(self) -> tuple[str, ...]:
        return ()
