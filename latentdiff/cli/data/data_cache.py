"""`latentdiff data cache build | ls | verify | gc`: latents and contexts made before training."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from latentdiff import config
from latentdiff.cli import groups
from latentdiff.errors import unknown_name

if TYPE_CHECKING:
    from latentdiff.data.cache.uses import Use

PROG = "latentdiff data cache"


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
    from latentdiff.cli.data.data_cache_build import main as build_main

    return build_main(argv)


def contents(argv: list[str]) -> int:
    """`latentdiff data cache ls`."""
    options = config.parse(
        ListConfig, argv, prog=f"{PROG} ls", description="List what a cache holds, and for whom."
    )
    from latentdiff.data.cache import uses as cache_uses
    from latentdiff.data.cache.latent_cache import KINDS, LatentCache

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
    from latentdiff.data.cache import clean as cache_clean
    from latentdiff.data.cache.latent_cache import LatentCache

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
    from latentdiff.data.cache import clean as cache_clean
    from latentdiff.data.cache import uses as cache_uses
    from latentdiff.data.cache.latent_cache import LatentCache

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


MORE = """\
A cache keeps what the autoencoder and the text encoder make of pictures and captions, by content:
an edited picture is encoded again alone, another model encodes all, and nothing stale is ever read.
`latentdiff train text-to-image … --cache DIR` fills it by itself; built before, it is there when
training begins.

Try: latentdiff data cache build photos/ --cache photos.cache"""


def main(argv: list[str]) -> int:
    """Run one `latentdiff data cache` command line and return its exit code."""
    return groups.run(argv, PROG, "command", SUBCOMMANDS, more=MORE)
