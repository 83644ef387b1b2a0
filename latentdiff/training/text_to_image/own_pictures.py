"""The user's own pictures as a feed: listed, measured, dealt to buckets, cut as they are needed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff.conditioning.text import WORD, dropped_words, token_counts
from latentdiff.data.bad_samples import NAME as BAD_SAMPLES
from latentdiff.data.bad_samples import BadSamples
from latentdiff.data.buckets import Bucket, BucketPlan, assign, make_buckets
from latentdiff.data.captions import CaptionPolicy, CaptionReport, lengths
from latentdiff.data.decode import decode, header
from latentdiff.data.order import BucketOrder
from latentdiff.data.records import BadPicture, Source
from latentdiff.data.sources import open_source
from latentdiff.data.transforms import crop_and_flip, fit
from latentdiff.errors import UserError
from latentdiff.training.caption_tokens import CaptionTokens
from latentdiff.training.text_to_image.config import DataConfig, TextToImageConfig
from latentdiff.training.text_to_image.feed import Entry, Feed, Visits
from latentdiff.training.text_to_image.networks import Networks

SHEET_PICTURES = 8
MOST_WORDS = 20_000
READERS = 8


def say(text: str) -> None:
    """A line of the main process."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, flush=True)


def open_own_pictures(
    config: TextToImageConfig, networks: Networks, tokens: CaptionTokens, run: Path
) -> Feed:
    """The feed of `config.pictures`; what was found is printed. `run`: the run's folder."""
    if config.pictures.stream:
        from latentdiff.training.text_to_image.streamed import StreamedPictures

        return StreamedPictures(config, networks, run)
    return OwnPictures(config, networks, tokens, run)


def forget_bad_samples(run: Path) -> None:
    """Remove the list of a run that never came to a checkpoint; the main process does it."""
    if int(os.environ.get("RANK", "0")) == 0 and not (run / "checkpoints").exists():
        (run / BAD_SAMPLES).unlink(missing_ok=True)


def open_named(pictures: DataConfig, where: str) -> Source:
    """A source with the run's column names and template."""
    return open_source(
        where,
        split=pictures.split,
        image_column=pictures.image_column,
        caption_column=pictures.caption_column,
        caption_template=pictures.caption_template,
    )


def buckets_of(pictures: DataConfig, networks: Networks) -> tuple[Bucket, ...]:
    """The run's buckets, or the one square bucket."""
    resolution = pictures.resolution or networks.size
    ratio = pictures.max_aspect if pictures.buckets else 1.0
    return make_buckets(resolution, multiple=networks.multiple, max_ratio=ratio)


class Measured:
    """Sizes (n, 2) int32 and content digests (n, 32) uint8 of a source's pictures; zero if bad."""

    def __init__(self, source: Source) -> None:
        self.sizes = np.zeros((len(source), 2), np.int32)
        self.digests = np.zeros((len(source), 32), np.uint8)
        self.bad: dict[int, BadPicture] = {}

        def look(row: int) -> None:
            try:
                data = source.read(row)
                found = header(data)
            except BadPicture as problem:
                self.bad[row] = problem
                return
            self.sizes[row] = found.width, found.height
            self.digests[row] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)

        with ThreadPoolExecutor(READERS) as threads:
            list(threads.map(look, range(len(source))))


def held_out_rows(digests: NDArray[np.uint8], rows: Sequence[int], count: int) -> list[int]:
    """About `count` of the rows, by the hash of their content: copies of a picture stay together.

    Renaming files, or adding a few, leaves most of the choice as it was.
    """
    if count < 1:
        return []
    ordered = sorted(rows, key=lambda row: hashlib.blake2b(digests[row].tobytes()).digest())
    last = digests[ordered[count - 1]]
    return [r for k, r in enumerate(ordered) if k < count or np.array_equal(digests[r], last)]


class OwnPictures:
    """A listed source; see `latentdiff.training.text_to_image.feed.Feed`."""

    def __init__(
        self, config: TextToImageConfig, networks: Networks, tokens: CaptionTokens, run: Path
    ) -> None:
        self.config, self.pictures = config, config.pictures
        self.seed = config.train.seed
        self.policy = CaptionPolicy(config.captions, self.seed)
        assert self.pictures.data is not None
        self.source = open_named(self.pictures, self.pictures.data)
        say(self.source.summary)
        self.buckets = buckets_of(self.pictures, networks)
        self.measured = Measured(self.source)
        forget_bad_samples(run)
        left_out = [problem for problem in self.source.problems if problem.fatal]
        self.bad = BadSamples(
            run / BAD_SAMPLES,
            total=len(self.source) + len(left_out),
            limit=self.pictures.bad_sample_limit,
        )
        for problem in left_out:
            self.bad.add(problem.where, BadPicture(problem.code, problem.reason))
        for row, found in sorted(self.measured.bad.items()):
            self.bad.add(self.source.id(row), found)
        self.validation = (
            None
            if self.pictures.validation_data is None
            else open_named(self.pictures, self.pictures.validation_data)
        )
        self.held = self._hold_out()
        self.plan = self._deal(networks.multiple)
        self.order = BucketOrder(
            self.plan.bucket_of, batch_size=config.train.batch_size, seed=self.seed
        )
        say(self.plan.table(config.train.batch_size))
        if self.held:
            say(f"{len(self.held)} pictures are held out for validation")
        self.captions = self._count(tokens)

    def _hold_out(self) -> list[int]:
        if self.validation is not None:
            return []
        good = [row for row in range(len(self.source)) if row not in self.measured.bad]
        share = round(self.pictures.validation_share * len(good))
        return held_out_rows(
            self.measured.digests, good, min(self.config.validation_pictures, share)
        )

    def _deal(self, multiple: int) -> BucketPlan:
        """Buckets of all that is trained on; what is too small is written down."""
        sizes = self.measured.sizes.copy()
        sizes[self.held] = 0
        plan = assign(sizes, self.buckets, multiple=multiple, upscale=self.pictures.upscale)
        for row in plan.too_small.tolist():
            if sizes[row].any():
                width, height = sizes[row]
                reason = f"{width}x{height} px, and the model needs {multiple} or more each way; "
                reason += "--upscale enlarges it"
                self.bad.add(self.source.id(row), BadPicture("too-small", reason))
        return plan

    def _count(self, tokens: CaptionTokens) -> CaptionReport:
        tokenizer = tokens.tokenizer
        report = lengths(
            self.source,
            lambda texts: token_counts(tokenizer, texts),
            int(tokenizer.model_max_length),
            lost_words=lambda texts: dropped_words(tokenizer, texts),
            config=self.config.captions,
        )
        if self.config.captions.long_captions == "error":
            report.refuse_long()
        for line in report.lines():
            say(line)
        return report

    @property
    def summary(self) -> dict[str, Any]:
        return {
            "source": self.source.summary,
            "pictures": len(self.order),
            "held out": len(self.held) or (len(self.validation) if self.validation else 0),
            "buckets": self.plan.table(self.config.train.batch_size),
            "captions": self.captions.text(),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Of ids, captions and picture bytes, in their order."""
        digest = hashlib.blake2b(self.measured.digests.tobytes(), digest_size=32)
        for row in range(len(self.source)):
            digest.update(repr((self.source.id(row), self.source.captions(row))).encode())
        return digest.hexdigest()

    def visit(self, positions: Sequence[int]) -> Visits:
        rows, pictures = [], []
        for position in positions:
            row, picture = self._usable(self.order.row_of(position), position)
            rows.append(row)
            pictures.append(picture)
        if len({picture.shape for picture in pictures}) > 1:
            raise UserError(
                "a batch would hold pictures of several buckets: the run goes on from one with "
                "another --batch-size; give the same"
            )
        captions = [
            self.policy.pick(self.source.captions(row), position)
            for row, position in zip(rows, positions, strict=True)
        ]
        return Visits(captions=tuple(captions), pictures=np.stack(pictures))

    def _usable(self, row: int, position: int) -> tuple[int, NDArray[np.uint8]]:
        """The row and its picture, or those of another row of the bucket if it turns out bad."""
        u, flip = crop_and_flip(
            self.seed, position, crop=self.pictures.crop, flip=self.pictures.flip
        )
        chosen, attempt = row, 0
        while True:
            try:
                return chosen, self._cut(chosen, self.plan.bucket(chosen), u=u, flip=flip)
            except BadPicture as problem:
                self.bad.add(self.source.id(chosen), problem)
            other = self.order.substitute(row, position, attempt)
            if other is None:
                raise UserError("no picture of a bucket can be read any more; is the disk there?")
            chosen, attempt = other, attempt + 1

    def _cut(
        self, row: int, bucket: Bucket, *, u: tuple[float, float] = (0.5, 0.5), flip: bool = False
    ) -> NDArray[np.uint8]:
        image = decode(self.source.read(row)).image
        return fit(image, bucket, u=u, flip=flip, upscale=self.pictures.upscale)

    def trained(self, count: int) -> list[Entry]:
        rows = np.flatnonzero(self.plan.bucket_of >= 0)
        keyed = sorted(rows.tolist(), key=lambda row: self.measured.digests[row].tobytes())
        return self._entries(self.source, keyed, count, self.plan.multiple)

    def held_out(self, count: int) -> list[Entry]:
        source = self.source if self.validation is None else self.validation
        rows = self.held if self.validation is None else range(len(source))
        return self._entries(source, rows, count, self.plan.multiple)

    def _entries(
        self, source: Source, rows: Iterable[int], count: int, multiple: int
    ) -> list[Entry]:
        """The first `count` of the rows that can be used."""
        entries: list[Entry] = []
        for row in rows:
            if len(entries) == count:
                break
            try:
                image = decode(source.read(row)).image
                plan = assign(
                    [image.size], self.buckets, multiple=multiple, upscale=self.pictures.upscale
                )
                if len(plan.too_small):
                    continue
                picture = fit(image, plan.bucket(0), upscale=self.pictures.upscale)
            except BadPicture as problem:
                self.bad.add(source.id(row), problem)
                continue
            text = next(iter(self.policy.texts(source.captions(row))), "")
            entries.append(Entry(id=source.id(row), picture=picture, caption=text))
        return entries

    def prompts(self) -> tuple[str, ...]:
        """Different captions, of held-out pictures first."""
        held = set(self.held)
        rows = [*self.held, *(row for row in range(len(self.source)) if row not in held)]
        found: dict[str, None] = {}
        for row in rows:
            for text in self.policy.texts(self.source.captions(row))[:1]:
                found[text] = None
            if len(found) == SHEET_PICTURES:
                break
        return tuple(found) or ("",)

    def words(self) -> tuple[str, ...]:
        found: set[str] = set()
        for row in range(len(self.source)):
            for text in self.policy.texts(self.source.captions(row)):
                found.update(re.findall(WORD, text.lower()))
            if len(found) > MOST_WORDS:
                break
        return tuple(sorted(found))
