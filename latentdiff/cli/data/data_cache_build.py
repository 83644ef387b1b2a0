"""`latentdiff data cache build`: the cache that a training on the same data reads."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from latentdiff import config
from latentdiff.data.buckets import BucketConfig
from latentdiff.data.sources import SourceConfig
from latentdiff.errors import UserError
from latentdiff.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from latentdiff.data.cache.latent_cache import LatentCache
    from latentdiff.data.records import Source
    from latentdiff.training.feeds.encode_cache import CacheView

SHOWN = 10
"""Bad pictures that are named; all are counted."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """What is encoded, with which model; the same options as those of the training."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Captioned pictures: a folder, parquet or tar files, or a hub data set."""
    cache: Path
    """The cache's folder; one that is there already gets what it lacks."""
    model: str = "snowglobe"
    """Whose autoencoder and text encoder: snowglobe, a diffusers folder, or a hub id."""
    source: SourceConfig = field(default_factory=SourceConfig)
    sizes: BucketConfig = field(default_factory=BucketConfig)
    flip: bool = False
    """Encode every picture mirrored too, for a training with --flip."""
    contexts: bool = True
    """Cache the captions' embeddings; off for a training of the text encoder or with shuffled
    tags."""
    caption_choice: Literal["random", "first"] = "random"
    """Which captions training sees when a picture has several."""
    trigger_words: str = ""
    """Words that training puts before every caption."""
    long_captions: Literal["error", "truncate", "chunk"] = "error"
    """Captions over the text encoder's limit: refuse them, cut them, or encode them in pieces."""
    reread: bool = False
    """Read every picture again, even if its size and time stamp are as before."""
    batch_size: int | None = None
    """Pictures at once. By default as many as make a million pixels, four million on a
    GPU."""
    workers: int = 4
    """Threads that read and cut pictures ahead."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes the accelerator when there is one."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")


def main(argv: list[str]) -> int:
    """Parse the command line and build; returns the exit code."""
    options = config.parse(
        BuildConfig,
        argv,
        prog="latentdiff data cache build",
        description=(
            "Encode pictures and captions before training. It can be stopped and started again "
            "at any time. On several GPUs: torchrun --nproc-per-node 8 -m latentdiff data cache "
            "build … ; on several machines, with a folder that all of them see."
        ),
    )
    return run(options)


def run(options: BuildConfig) -> int:
    """Build, and say what was found and made; returns the exit code."""
    from latentdiff.data.buckets import assign
    from latentdiff.data.cache.latent_cache import LatentCache
    from latentdiff.data.captions import CaptionConfig, CaptionPolicy
    from latentdiff.models import bundle as bundles
    from latentdiff.training.feeds import encode_cache
    from latentdiff.training.feeds.own import count_captions
    from latentdiff.training.run.loop import print_on_main
    from latentdiff.training.run.processes import start
    from latentdiff.training.tasks.text_to_image.networks import geometry_of, image_size
    from latentdiff.training.train_config import TrainConfig

    begun = time.monotonic()
    processes = start(TrainConfig(device=options.device))
    say = print_on_main(processes)
    captions = CaptionConfig(
        caption_choice=options.caption_choice,
        trigger_words=options.trigger_words,
        long_captions=options.long_captions,
    )
    source = options.source.open(options.data)
    say(source.summary)
    networks = bundles.load(options.model)
    if options.contexts:
        for line in count_captions(source, networks.tokenizer, captions).lines():
            say(line)
    size = image_size(networks, options.sizes.resolution)
    multiple = geometry_of(networks).coarsest
    show = Progress if processes.is_main else None
    cache, team = LatentCache(options.cache, create=True), processes.team()
    contents = encode_cache.scan(
        cache, source, team=team, reread=options.reread, workers=options.workers, show=show
    )
    buckets = options.sizes.make(size, multiple)
    plan = assign(contents.sizes, buckets, multiple=multiple, upscale=options.sizes.upscale)
    say(plan.table())
    wanted = encode_cache.Wanted(
        source=source,
        contents=contents,
        plan=plan,
        flip=options.flip,
        upscale=options.sizes.upscale,
        texts=CaptionPolicy(captions, 0).texts if options.contexts else None,
        about={"size": options.sizes.describe(size)},
    )
    encoders = encode_cache.Encoders(
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=networks.tokenizer,
        device=processes.device,
        long_captions=options.long_captions,
    )
    work = encode_cache.Work(
        team=team, batch_size=options.batch_size, workers=options.workers, show=show, say=say
    )
    view = encode_cache.ensure_cache(cache, wanted, encoders, work)
    _report(source, view, say)
    say(f"{_contents(options.cache, cache)}, after {time.monotonic() - begun:,.0f} s")
    return 0


def _contents(folder: Path, cache: LatentCache) -> str:
    """What is in a cache, in a line."""
    from latentdiff.data.cache.latent_cache import CONTEXTS, MOMENTS

    moments, contexts = cache.store(MOMENTS), cache.store(CONTEXTS)
    return (
        f"{folder}: {len(moments):,} moments of {moments.bytes:,} bytes, {len(contexts):,} "
        f"contexts of {contexts.bytes:,} bytes"
    )


def _report(source: Source, view: CacheView, say: Callable[[str], None]) -> None:
    """Name the pictures that are not in the cache."""
    for row, problem in list(view.bad.items())[:SHOWN]:
        say(f"left out: {source.id(row)}: {problem}")
    if view.bad:
        say(
            f"{len(view.bad):,} of {len(view):,} pictures are left out; "
            "`latentdiff data check` says more"
        )
