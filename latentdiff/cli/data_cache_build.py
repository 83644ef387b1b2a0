"""The work of `latentdiff data cache build`: the cache that a training on the same data reads."""

from __future__ import annotations

import os
import time

import torch

from latentdiff.cli.data_cache import BuildConfig, Progress, rank
from latentdiff.conditioning.text import dropped_words, token_counts
from latentdiff.data.buckets import assign
from latentdiff.data.captions import CaptionConfig, CaptionPolicy, lengths
from latentdiff.data.latent_cache import CONTEXTS, MOMENTS, LatentCache
from latentdiff.data.records import Source
from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.training import encode_cache
from latentdiff.training.text_to_image.config import DataConfig
from latentdiff.training.text_to_image.listed import open_named
from latentdiff.training.text_to_image.networks import Networks
from latentdiff.training.text_to_image.own_pictures import buckets_of

SHOWN = 10
"""Bad pictures that are named; all are counted."""


def say(line: str) -> None:
    """A line of the first process."""
    if rank() == 0:
        print(line, flush=True)


def run(options: BuildConfig) -> int:
    """Build, and say what was found and made; returns the exit code."""
    begun = time.monotonic()
    captions = CaptionConfig(
        caption_choice=options.caption_choice,
        trigger_words=options.trigger_words,
        long_captions=options.long_captions,
    )
    data = _data_config(options)
    source = open_named(data, options.data)
    say(source.summary)
    networks = _networks(options.model)
    if options.contexts:
        _check_captions(source, networks, captions)
    show = Progress if rank() == 0 else None
    cache = LatentCache(options.cache, create=True)
    team = encode_cache.team_of_processes()
    contents = encode_cache.scan(
        cache, source, team=team, reread=options.reread, workers=options.workers, show=show
    )
    plan = assign(
        contents.sizes,
        buckets_of(data, networks),
        multiple=networks.multiple,
        upscale=options.upscale,
    )
    say(plan.table())
    view = encode_cache.ensure_cache(
        cache,
        source,
        encode_cache.Encoders(
            vae=networks.vae,
            text_encoder=networks.text_encoder,
            tokenizer=networks.tokenizer,
            device=_device(options.device),
            long_captions=options.long_captions,
        ),
        contents=contents,
        plan=plan,
        flip=options.flip,
        upscale=options.upscale,
        texts=CaptionPolicy(captions, 0).texts if options.contexts else None,
        team=team,
        batch_size=options.batch_size,
        workers=options.workers,
        show=show,
        say=say,
        about=size_of(data, networks),
    )
    _report(source, view)
    moments, contexts = cache.store(MOMENTS), cache.store(CONTEXTS)
    say(
        f"{options.cache}: {len(moments):,} moments of {moments.bytes:,} bytes, {len(contexts):,} "
        f"contexts of {contexts.bytes:,} bytes, after {time.monotonic() - begun:,.0f} s"
    )
    return 0


def _data_config(options: BuildConfig) -> DataConfig:
    return DataConfig(
        data=options.data,
        split=options.split,
        image_column=options.image_column,
        caption_column=options.caption_column,
        caption_template=options.caption_template,
        captions_from=options.captions_from,
        resolution=options.resolution,
        buckets=options.buckets,
        max_aspect=options.max_aspect,
        upscale=options.upscale,
        flip=options.flip,
    )


def _networks(model: str) -> Networks:
    base = bundles.load(model)
    return Networks(
        unet=base.unet,
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        scheduler_config=base.scheduler_config,
    )


def _check_captions(source: Source, networks: Networks, captions: CaptionConfig) -> None:
    tokenizer = networks.tokenizer
    report = lengths(
        source,
        lambda texts: token_counts(tokenizer, texts),
        int(tokenizer.model_max_length),
        lost_words=lambda texts: dropped_words(tokenizer, texts),
        config=captions,
    )
    if captions.long_captions == "error":
        report.refuse_long()
    for line in report.lines():
        say(line)


def size_of(data: DataConfig, networks: Networks) -> dict[str, str]:
    """What tells the uses of one data set at several sizes apart."""
    side = data.resolution or networks.size
    shape = f"aspect up to {data.max_aspect:g}" if data.buckets else "square"
    return {"size": f"{side} px, {shape}"}


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device is cuda, but torch finds no CUDA device; use --device cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def _report(source: Source, view: encode_cache.CacheView) -> None:
    """Name the pictures that are not in the cache."""
    for row, problem in list(view.bad.items())[:SHOWN]:
        say(f"left out: {source.id(row)}: {problem}")
    if view.bad:
        say(
            f"{len(view.bad):,} of {len(view):,} pictures are left out; "
            "`latentdiff data check` says more"
        )
