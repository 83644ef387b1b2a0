"""The user's own pictures as a feed: listed, measured, dealt to buckets, cut as they are needed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff.conditioning.text import WORD, dropped_words, token_counts
from latentdiff.data.bad_samples import NAME as BAD_SAMPLES
from latentdiff.data.bad_samples import BadSamples
from latentdiff.data.buckets import BucketPlan, assign
from latentdiff.data.cache import content_index
from latentdiff.data.cache.build import Team
from latentdiff.data.cache.content_index import Contents
from latentdiff.data.cache.latent_cache import LatentCache
from latentdiff.data.captions import CaptionPolicy, CaptionReport, lengths, static
from latentdiff.data.decode.decoding import decode
from latentdiff.data.order import BucketOrder
from latentdiff.data.records import BadPicture, Source
from latentdiff.data.transforms import crop_and_flip, fit
from latentdiff.devices import find_device
from latentdiff.errors import UserError
from latentdiff.training.feeds import encode_cache
from latentdiff.training.feeds.caption_tokens import CaptionTokens
from latentdiff.training.feeds.encode_cache import CacheView
from latentdiff.training.feeds.feed import Entry, Feed, Visits
from latentdiff.training.feeds.listed import (
    entries_of,
    forget_bad_samples,
    open_named,
    watch,
)
from latentdiff.training.launch import local_rank, say
from latentdiff.training.tasks.text_to_image.networks import Networks
from latentdiff.training.tasks.text_to_image.text_to_image_config import TextToImageConfig

SHEET_PICTURES = 8
FEW_HELD_OUT = 8
"""Below it Student's t is wide: of 2 pictures a change must be 12.7 standard errors."""
MOST_WORDS = 20_000


def open_own_pictures(
    config: TextToImageConfig, networks: Networks, tokens: CaptionTokens, run: Path
) -> Feed:
    """The feed of `config.pictures`; what was found is printed. `run`: the run's folder."""
    if config.pictures.stream:
        from latentdiff.training.feeds.streamed import StreamedPictures

        return StreamedPictures(config, networks, run)
    forget_bad_samples(run)
    own = OwnPictures(config, networks, tokens, run)
    if config.pictures.prior_data is None:
        return own
    from latentdiff.training.feeds.mixed import WithPrior

    other = replace(
        config.pictures,
        data=config.pictures.prior_data,
        prior_data=None,
        validation_data=None,
        validation_share=0.0,
    )
    say("beside them, so that what is known stays known:")
    prior = OwnPictures(replace(config, pictures=other), networks, tokens, run)
    return WithPrior(
        own, prior, share=config.pictures.prior_share, batch_size=config.train.batch_size
    )


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
    """A listed source; see `latentdiff.training.feeds.feed.Feed`."""

    def __init__(
        self, config: TextToImageConfig, networks: Networks, tokens: CaptionTokens, run: Path
    ) -> None:
        self.config, self.pictures = config, config.pictures
        self.seed = config.train.seed
        self.policy = CaptionPolicy(config.captions, self.seed)
        assert self.pictures.data is not None
        self.source = open_named(self.pictures, self.pictures.data)
        say(self.source.summary)
        self.buckets = self.pictures.sizes.make(networks.size, networks.multiple)
        self.cache = None if config.cache is None else LatentCache(config.cache, create=True)
        self.team = encode_cache.team_of_processes() if self.cache is not None else Team()
        self.contents = self._measure()
        self.bad = self._begin_list(run)
        self.validation = (
            None
            if self.pictures.validation_data is None
            else open_named(self.pictures, self.pictures.validation_data)
        )
        self.held = self._hold_out()
        self.plan = self._deal(networks.multiple)
        self.captions = self._count(tokens)
        self.view = self._encode(networks)
        self.order = self._order()
        say(self.plan.table(config.train.batch_size))
        if self.held:
            few = len(self.held) < FEW_HELD_OUT
            hint = "; so few show great changes only (--validation-share)" if few else ""
            say(f"held out for validation: {len(self.held)} pictures{hint}")

    def _measure(self) -> Contents:
        if self.cache is None:
            progress = watch("read pictures:")
            return content_index.read_all(self.source, encode_cache.measure, progress=progress)
        return encode_cache.scan(self.cache, self.source, team=self.team, show=watch)

    def _begin_list(self, run: Path) -> BadSamples:
        """The list of bad samples, with what listing and measuring found."""
        left_out = [problem for problem in self.source.problems if problem.fatal]
        listed = BadSamples(
            run / BAD_SAMPLES,
            total=len(self.source) + len(left_out),
            limit=self.pictures.bad_sample_limit,
        )
        named = [(p.where, BadPicture(p.code, p.reason)) for p in left_out]
        bad = self.contents.bad.items()
        listed.add_all([*named, *((self.source.id(row), found) for row, found in bad)])
        return listed

    def _encode(self, networks: Networks) -> CacheView | None:
        """Fill the cache, if there is one, with all that training reads."""
        if self.cache is None:
            return None
        captions = self.config.captions
        fixed_texts = static(captions) and not self.config.train_text_encoder
        cached_texts = fixed_texts and self.config.cache_contexts
        return encode_cache.ensure_cache(
            self.cache,
            self.source,
            encode_cache.Encoders(
                vae=networks.vae,
                text_encoder=networks.text_encoder,
                tokenizer=networks.tokenizer,
                device=find_device(self.config.train.device, index=local_rank()),
                long_captions=captions.long_captions,
            ),
            contents=self.contents,
            plan=self.plan,
            flip=self.pictures.flip,
            upscale=self.pictures.sizes.upscale,
            texts=self.policy.texts if cached_texts else None,
            team=self.team,
            show=watch,
            say=say,
            about={"size": self.pictures.sizes.describe(networks.size)},
        )

    def _order(self) -> BucketOrder:
        bucket_of = self.plan.bucket_of.copy()
        for row, problem in (self.view.bad if self.view is not None else {}).items():
            if bucket_of[row] >= 0:
                bucket_of[row] = -1
                self.bad.add(self.source.id(row), problem)
        return BucketOrder(bucket_of, batch_size=self.config.train.batch_size, seed=self.seed)

    def _hold_out(self) -> list[int]:
        if self.validation is not None:
            return []
        good = [row for row in range(len(self.source)) if row not in self.contents.bad]
        share = round(self.pictures.validation_share * len(good))
        return held_out_rows(
            self.contents.digests, good, min(self.config.validation_pictures, share)
        )

    def _deal(self, multiple: int) -> BucketPlan:
        """Buckets of all that is trained on; what is too small is written down."""
        sizes = self.contents.sizes.copy()
        sizes[self.held] = 0
        plan = assign(sizes, self.buckets, multiple=multiple, upscale=self.pictures.sizes.upscale)
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
        digest = hashlib.blake2b(self.contents.digests.tobytes(), digest_size=32)
        for row in range(len(self.source)):
            digest.update(repr((self.source.id(row), self.source.captions(row))).encode())
        return digest.hexdigest()

    def visit(self, positions: Sequence[int]) -> Visits:
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
            return Visits(captions=captions, pictures=np.stack(found))
        contexts = None
        if self.view.has_contexts:
            contexts = tuple(self.view.context(caption) for caption in captions)
        return Visits(captions=captions, moments=np.stack(found), contexts=contexts)

    def names(self, positions: Sequence[int]) -> list[str]:
        return [self.source.id(row) for row in self.order.rows(positions).tolist()]

    def _usable(self, row: int, position: int) -> tuple[int, NDArray[Any]]:
        """The row and its picture or moments, or another row's if it is bad: one of its bucket,
        or, uncached, at last any other that is cut to that bucket."""
        u, flip = crop_and_flip(self.seed, position, crop=self.config.crop, flip=self.pictures.flip)
        bucket = self.plan.bucket(row)
        chosen, attempt = row, 0
        while True:
            try:
                if self.view is not None:
                    return chosen, self.view.moments(chosen, flip)
                image = decode(self.source.read(chosen)).image
                upscale = self.pictures.sizes.upscale or self.plan.bucket(chosen) != bucket
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
            source,
            rows,
            count,
            buckets=self.buckets,
            multiple=self.plan.multiple,
            upscale=self.pictures.sizes.upscale,
            policy=self.policy,
            bad=self.bad,
        )

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
