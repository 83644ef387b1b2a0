"""The user's own images as a feed: listed, measured, sorted into buckets, cut when needed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdiff.conditioning.text import WORD, dropped_words, token_counts
from latentdiff.data.bad_samples import NAME as BAD_SAMPLES
from latentdiff.data.bad_samples import BadSamples
from latentdiff.data.buckets import BucketPlan, assign
from latentdiff.data.cache import content_index
from latentdiff.data.cache.content_index import Contents
from latentdiff.data.cache.latent_cache import LatentCache
from latentdiff.data.captions import CaptionConfig, CaptionReport, lengths
from latentdiff.data.decode.decoding import decode
from latentdiff.data.order import BucketOrder
from latentdiff.data.records import BadPicture, Source, Weighted
from latentdiff.data.transforms import crop_and_flip, fit
from latentdiff.errors import UserError
from latentdiff.training.context import RunContext
from latentdiff.training.feeds import encode_cache
from latentdiff.training.feeds.encode_cache import CacheSettings, CacheView
from latentdiff.training.feeds.feed import Entry, Feed, Samples
from latentdiff.training.feeds.fixed_entries import entries_of
from latentdiff.training.feeds.settings import FeedSettings

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

SHEET_PROMPTS = 8
FEW_HELD_OUT = 8
"""Below it Student's t is wide: of 2 pictures a change must be 12.7 standard errors."""
MOST_WORDS = 20_000


def open_own_images(
    settings: FeedSettings,
    context: RunContext,
    *,
    source: Source | None = None,
    tokenizer: CLIPTokenizer | None = None,
    cache: CacheSettings | None = None,
) -> Feed:
    """The feed of `settings.data`; what was found is printed.

    source: `settings.open_training()`, if it is open already. tokenizer: whose limit the captions
    must keep; without one they are not counted. cache: keeps the frozen networks' work.
    """
    if context.is_main and not (context.folder / "checkpoints").exists():
        # That of a run that never came to a checkpoint.
        (context.folder / BAD_SAMPLES).unlink(missing_ok=True)
    if settings.data.stream:
        from latentdiff.training.feeds.streamed import StreamedImages

        return StreamedImages(settings, context)
    own = OwnImages(settings, context, source=source, tokenizer=tokenizer, cache=cache)
    if settings.data.prior_data is None:
        return own
    from latentdiff.training.feeds.mixed import WithPrior

    other = replace(
        settings.data,
        data=settings.data.prior_data,
        prior_data=None,
        validation_data=None,
        validation_share=0.0,
    )
    context.say("beside them, so that what is known stays known:")
    prior = OwnImages(replace(settings, data=other), context, tokenizer=tokenizer, cache=cache)
    return WithPrior(own, prior, share=settings.data.prior_share, batch_size=settings.batch_size)


def held_out_rows(digests: NDArray[np.uint8], rows: Sequence[int], count: int) -> list[int]:
    """About `count` of the rows, by the hash of their content: copies of a picture stay together.

    Renaming files, or adding a few, leaves most of the choice as it was.
    """
    if count < 1:
        return []
    ordered = sorted(rows, key=lambda row: hashlib.blake2b(digests[row].tobytes()).digest())
    last = digests[ordered[count - 1]]
    return [r for k, r in enumerate(ordered) if k < count or np.array_equal(digests[r], last)]


def count_captions(
    source: Source, tokenizer: CLIPTokenizer, captions: CaptionConfig
) -> CaptionReport:
    """The captions' lengths in tokens; UserError for one over the limit, unless that is allowed."""
    report = lengths(
        source,
        lambda texts: token_counts(tokenizer, texts),
        int(tokenizer.model_max_length),
        lost_words=lambda texts: dropped_words(tokenizer, texts),
        config=captions,
    )
    if captions.long_captions == "error":
        report.refuse_long()
    return report


class OwnImages:
    """A listed source; see `latentdiff.training.feeds.feed.Feed`."""

    def __init__(
        self,
        settings: FeedSettings,
        context: RunContext,
        *,
        source: Source | None = None,
        tokenizer: CLIPTokenizer | None = None,
        cache: CacheSettings | None = None,
    ) -> None:
        self.settings, self.data, self.seed = settings, settings.data, settings.seed
        self.policy = settings.policy()
        self.source = source or settings.open_training()
        context.say(self.source.summary)
        self.buckets = settings.buckets
        stored = None if cache is None else LatentCache(cache.folder, create=True)
        self.contents = self._measure(stored, context)
        self.bad = self._begin_list(context.folder)
        self.validation = (
            None if self.data.validation_data is None else settings.open(self.data.validation_data)
        )
        self.held = self._hold_out()
        self.plan = self._assign(settings.multiple)
        self.captions: CaptionReport | None = None
        if tokenizer is not None:
            self.captions = count_captions(self.source, tokenizer, settings.captions)
            for line in self.captions.lines():
                context.say(line)
        self.view = None
        if cache is not None and stored is not None:
            self.view = self._encode(stored, cache, context)
        self.order = self._order()
        context.say(self.plan.table(settings.batch_size))
        if self.held:
            few = len(self.held) < FEW_HELD_OUT
            hint = "; so few show great changes only (--validation-share)" if few else ""
            context.say(f"held out for validation: {len(self.held)} pictures{hint}")

    def _measure(self, stored: LatentCache | None, context: RunContext) -> Contents:
        if stored is None:
            progress = context.progress("read pictures:")
            return content_index.read_all(self.source, encode_cache.measure, progress=progress)
        return encode_cache.scan(stored, self.source, team=context.team, show=context.progress)

    def _begin_list(self, run: Path) -> BadSamples:
        """The list of bad samples, with what listing and measuring found."""
        left_out = [problem for problem in self.source.problems if problem.fatal]
        listed = BadSamples(
            run / BAD_SAMPLES,
            total=len(self.source) + len(left_out),
            limit=self.data.bad_sample_limit,
        )
        named = [(p.where, BadPicture(p.code, p.reason)) for p in left_out]
        bad = self.contents.bad.items()
        listed.add_all([*named, *((self.source.id(row), found) for row, found in bad)])
        return listed

    def _encode(self, stored: LatentCache, cache: CacheSettings, context: RunContext) -> CacheView:
        """Fill the cache with all that training reads."""
        wanted = encode_cache.Wanted(
            source=self.source,
            contents=self.contents,
            plan=self.plan,
            flip=self.data.flip,
            upscale=self.settings.upscale,
            texts=self.policy.texts if cache.contexts else None,
            about={"size": self.data.sizes.describe(self.settings.size)},
        )
        work = encode_cache.Work(team=context.team, show=context.progress, say=context.say)
        return encode_cache.ensure_cache(stored, wanted, cache.encoders, work)

    def _order(self) -> BucketOrder:
        bucket_of = self.plan.bucket_of.copy()
        for row, problem in (self.view.bad if self.view is not None else {}).items():
            if bucket_of[row] >= 0:
                bucket_of[row] = -1
                self.bad.add(self.source.id(row), problem)
        return BucketOrder(
            bucket_of,
            batch_size=self.settings.batch_size,
            seed=self.seed,
            repeats=self.source.repeats if isinstance(self.source, Weighted) else (),
        )

    def _hold_out(self) -> list[int]:
        if self.validation is not None:
            return []
        good = [row for row in range(len(self.source)) if row not in self.contents.bad]
        share = round(self.data.validation_share * len(good))
        return held_out_rows(self.contents.digests, good, min(self.settings.most_held_out, share))

    def _assign(self, multiple: int) -> BucketPlan:
        """Buckets of all that is trained on; what is too small is written down."""
        sizes = self.contents.sizes.copy()
        sizes[self.held] = 0
        plan = assign(sizes, self.buckets, multiple=multiple, upscale=self.settings.upscale)
        for row in plan.too_small.tolist():
            if sizes[row].any():
                width, height = sizes[row]
                reason = f"{width}x{height} px, and the model needs {multiple} or more each way; "
                reason += "--upscale enlarges it"
                self.bad.add(self.source.id(row), BadPicture("too-small", reason))
        return plan

    @property
    def summary(self) -> dict[str, Any]:
        found = {
            "source": self.source.summary,
            "pictures": len(self.order),
            "held out": len(self.held) or (len(self.validation) if self.validation else 0),
            "buckets": self.plan.table(self.settings.batch_size),
        }
        return found if self.captions is None else {**found, "captions": self.captions.text()}

    @cached_property
    def fingerprint(self) -> str:
        """Of ids, captions and picture bytes, in their order."""
        digest = hashlib.blake2b(self.contents.digests.tobytes(), digest_size=32)
        for row in range(len(self.source)):
            digest.update(repr((self.source.id(row), self.source.captions(row))).encode())
        return digest.hexdigest()

    def samples(self, positions: Sequence[int]) -> Samples:
        rows, found = [], []
        for position in positions:
            row, content = self._usable(self.order.row_of(position), position)
            rows.append(row)
            found.append(content)
        if len({content.shape for content in found}) > 1:
            raise UserError(
                "a batch would hold pictures of several buckets: the run goes on from one with "
                "another --batch-size; give the same"
            )
        captions = tuple(
            self.policy.pick(self.source.captions(row), position)
            for row, position in zip(rows, positions, strict=True)
        )
        if self.view is None:
            return Samples(captions=captions, images=np.stack(found))
        contexts = None
        if self.view.has_contexts:
            contexts = tuple(self.view.context(caption) for caption in captions)
        return Samples(captions=captions, moments=np.stack(found), contexts=contexts)

    def names(self, positions: Sequence[int]) -> list[str]:
        return [self.source.id(row) for row in self.order.rows(positions).tolist()]

    def _usable(self, row: int, position: int) -> tuple[int, NDArray[Any]]:
        """The row and its image or moments, or another row's if it is bad: one of its bucket,
        or, uncached, at last any other that is cut to that bucket."""
        u, flip = crop_and_flip(self.seed, position, crop=self.settings.crop, flip=self.data.flip)
        bucket = self.plan.bucket(row)
        chosen, attempt = row, 0
        while True:
            try:
                if self.view is not None:
                    return chosen, self.view.moments(chosen, flip)
                image = decode(self.source.read(chosen)).image
                upscale = self.settings.upscale or self.plan.bucket(chosen) != bucket
                return chosen, fit(image, bucket, u=u, flip=flip, upscale=upscale)
            except BadPicture as problem:
                self.bad.add(self.source.id(chosen), problem)
            other = self.order.substitute(row, position, attempt, elsewhere=self.view is None)
            if other is None:
                raise UserError("no picture can be read any more; is the disk still there?")
            chosen, attempt = other, attempt + 1

    def trained(self, count: int) -> list[Entry]:
        rows = np.flatnonzero(self.plan.bucket_of >= 0)
        keyed = sorted(rows.tolist(), key=lambda row: self.contents.digests[row].tobytes())
        return self._entries(self.source, keyed, count)

    def held_out(self, count: int) -> list[Entry]:
        source = self.source if self.validation is None else self.validation
        rows = self.held if self.validation is None else range(len(source))
        return self._entries(source, rows, count)

    def _entries(self, source: Source, rows: Iterable[int], count: int) -> list[Entry]:
        return entries_of(
            source, rows, count, settings=self.settings, buckets=self.buckets, bad=self.bad
        )

    def prompts(self) -> tuple[str, ...]:
        """Different captions, of held-out images first."""
        held = set(self.held)
        rows = [*self.held, *(row for row in range(len(self.source)) if row not in held)]
        found: dict[str, None] = {}
        for row in rows:
            for text in self.policy.texts(self.source.captions(row))[:1]:
                found[text] = None
            if len(found) == SHEET_PROMPTS:
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
