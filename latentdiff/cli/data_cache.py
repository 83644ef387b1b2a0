"""`latentdiff data cache build | ls | verify | gc`: latents and contexts made before training."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from latentdiff import config
from latentdiff.errors import UserError, unknown_name

if TYPE_CHECKING:
    from latentdiff.data.cache_uses import Use

PROG = "latentdiff data cache"


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """What is encoded, with which model; the same options as those of the training."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Captioned pictures: a folder, parquet or tar files, or a hub data set."""
    cache: Path
    """The cache's folder; one that is there already gets what it lacks."""
    model: str = "snowglobe"
    """Whose autoencoder and text encoder: snowglobe, a diffusers folder, or a hub id."""
    split: str | None = None
    """Split of a hub data set (train if not named), or subfolder."""
    image_column: str | None = None
    """Column of the pictures in parquet files and hub data sets; found by itself if it can be."""
    caption_column: str | None = None
    """Column or key of the captions: text, caption or prompt if not named."""
    caption_template: str = "a photo of a {label}"
    """Caption of a picture that only has a label, such as its folder's name."""
    captions_from: Literal["metadata", "sidecars"] | None = None
    """Which captions hold where a metadata file and .txt files disagree."""
    resolution: int | None = None
    """Side in pixels of a square bucket. None: the model's own."""
    buckets: bool = True
    """Sort pictures into buckets by aspect ratio; off: one square bucket."""
    max_aspect: float = 2.0
    """Longest aspect ratio of a bucket."""
    upscale: bool = False
    """Enlarge pictures smaller than their bucket; off: they go to smaller buckets."""
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
    """Pictures at once. None: as many as make a million pixels, four million on a GPU."""
    workers: int = 4
    """Threads that read and cut pictures ahead."""
    device: str = "auto"
    """Where to compute; auto takes the accelerator when there is one."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """A look at a cache."""

    cache: tyro.conf.Positional[Path]
    """The cache's folder."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """A check of every byte."""

    cache: tyro.conf.Positional[Path]
    """The cache's folder."""
    repair: bool = False
    """Delete the damaged files; the next training or build encodes what they held again."""


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """What is kept of a cache."""

    cache: tyro.conf.Positional[Path]
    """The cache's folder."""
    keep: tuple[str, ...] = ()
    """Ids of the uses to keep, as `ls` lists them (a beginning is enough). Default: all."""
    keep_days: Annotated[float | None, tyro.conf.arg(metavar="DAYS")] = None
    """Keep the uses that were last begun within so many days, and those of --keep."""
    dry_run: bool = False
    """Only say what would go."""


def build(argv: list[str]) -> int:
    """`latentdiff data cache build`."""
    options = config.parse(
        BuildConfig,
        argv,
        prog=f"{PROG} build",
        description=(
            "Encode pictures and captions before training. It can be stopped and started again "
            "at any time. On several GPUs: torchrun --nproc-per-node 8 -m latentdiff data cache "
            "build … ; on several machines, with a folder that all of them see."
        ),
    )
    from latentdiff.cli.data_cache_build import run

    return run(options)


def contents(argv: list[str]) -> int:
    """`latentdiff data cache ls`."""
    options = config.parse(
        ListConfig, argv, prog=f"{PROG} ls", description="List what a cache holds, and for whom."
    )
    from latentdiff.data import cache_uses
    from latentdiff.data.latent_cache import KINDS, LatentCache

    cache = LatentCache(options.cache)
    print(f"{'':<10}{'entries':>12}{'bytes':>18}{'shards':>8}")
    for kind in KINDS:
        store = cache.store(kind)
        print(f"{kind:<10}{len(store):>12,}{store.bytes:>18,}{len(store.shards):>8,}")
    uses = cache_uses.listed(cache)
    print(f"\nuses ({len(uses)}; `{PROG} gc` keeps their entries):" if uses else "\nno uses")
    for use in uses:
        print(f"  {describe(use)}")
    for line in cache.damaged:
        print(line, file=sys.stderr)
    return 0


def describe(use: Use) -> str:
    """A use in a line: id, date, how much, what."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(use.when))
    counts = ", ".join(f"{n:,} {kind}" for kind, n in use.entries.items() if kind != "contents")
    about = "; ".join(f"{name} {value}" for name, value in use.about.items())
    return f"{use.id}  {when}  {counts}; {about}"


def verify(argv: list[str]) -> int:
    """`latentdiff data cache verify`: exit code 1 when something is damaged and not repaired."""
    options = config.parse(
        VerifyConfig,
        argv,
        prog=f"{PROG} verify",
        description="Read every byte of a cache and compare it with what was written.",
    )
    from latentdiff.data import cache_clean
    from latentdiff.data.latent_cache import LatentCache

    cache = LatentCache(options.cache, alone=options.repair)
    whole = damaged = 0
    for path, problem in cache_clean.verify(cache):
        if not problem:
            whole += 1
            continue
        damaged += 1
        print(f"{problem}: removed" if options.repair else problem)
        if options.repair:
            path.unlink(missing_ok=True)
    print(f"{whole} shards are whole, {damaged} damaged")
    if damaged and not options.repair:
        print(f"`{PROG} verify {options.cache} --repair` removes them; then encode again")
    return 1 if damaged and not options.repair else 0


def collect(argv: list[str]) -> int:
    """`latentdiff data cache gc`."""
    options = config.parse(
        CollectConfig,
        argv,
        prog=f"{PROG} gc",
        description=(
            "Delete what no use wants: moments of pictures that were edited or removed, of other "
            "models, and uses that are not kept."
        ),
    )
    from latentdiff.data import cache_clean, cache_uses
    from latentdiff.data.latent_cache import LatentCache

    cache = LatentCache(options.cache, alone=not options.dry_run)
    uses = cache_uses.listed(cache)
    kept = chosen(uses, options.keep, options.keep_days)
    for use in uses:
        print(f"{'keep' if use in kept else 'drop'}  {describe(use)}")
    freed = 0
    for done in cache_clean.collect(cache, kept, dry_run=options.dry_run):
        freed += done.bytes_freed
        print(
            f"{done.kind:<10}{done.kept:>12,} kept{done.dropped:>12,} dropped"
            f"{done.shards_before:>8,} → {done.shards_after:,} shards"
        )
        for line in done.damaged:
            print(f"{line}: dropped")
    print(f"{freed:,} bytes {'would be freed' if options.dry_run else 'freed'}")
    return 0


def chosen(uses: list[Use], keep: tuple[str, ...], days: float | None) -> list[Use]:
    """The uses to keep: all, or those named and those young enough. UserError for unknown ids."""
    if not keep and days is None:
        return uses
    named: list[Use] = []
    for name in keep:
        found = [use for use in uses if name and use.id.startswith(name)]
        if not found:
            raise unknown_name("use", name, [use.id for use in uses])
        named += found
    young = [use for use in uses if days is not None and use.days <= days]
    return [use for use in uses if use in named or use in young]


SUBCOMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "build": (build, "encode pictures and captions: DATA --cache DIR [--model M]"),
    "ls": (contents, "what a cache holds, and what for: DIR"),
    "verify": (verify, "compare every byte with what was written: DIR [--repair]"),
    "gc": (collect, "delete what no use wants: DIR [--keep ID …] [--keep-days N]"),
}


def usage() -> str:
    """The text of `latentdiff data cache --help`."""
    rows = "\n".join(f"  {name:<8}{text}" for name, (_, text) in SUBCOMMANDS.items())
    return (
        f"usage: {PROG} COMMAND [OPTIONS]\n\ncommands:\n{rows}\n\n"
        "A cache keeps what the autoencoder and the text encoder make of pictures and captions,\n"
        "by content: an edited picture is encoded again alone, another model encodes all, and\n"
        "nothing stale is ever read. `latentdiff train text-to-image … --cache DIR` fills it by\n"
        "itself; built before, it is there when training begins.\n\n"
        f"Try: {PROG} build photos/ --cache photos.cache"
    )


def main(argv: list[str]) -> int:
    """Run one `latentdiff data cache` command line and return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] not in SUBCOMMANDS:
        raise unknown_name("data cache command", argv[0], SUBCOMMANDS)
    return SUBCOMMANDS[argv[0]][0](argv[1:])


class Progress:
    """`progress(done, total)` of the first process: a line that is rewritten on a terminal,
    otherwise one now and then."""

    def __init__(self, verb: str, seconds: float = 20.0) -> None:
        self.verb, self.seconds = verb, seconds
        self._begun = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        live = sys.stderr.isatty()
        if done < total and now - self._said < (0.2 if live else self.seconds):
            return
        self._said = now
        rate = done / max(1e-9, now - self._begun)
        end = "\r" if live and done < total else "\n"
        left = f", {(total - done) / rate:,.0f} s left" if done < total and rate else ""
        print(
            f"{self.verb} {done:,} of {total:,}, {rate:,.1f}/s{left}  ",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def rank() -> int:
    """This process's number among those that a launcher started."""
    return int(os.environ.get("RANK", "0"))
