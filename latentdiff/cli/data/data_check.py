"""`latentdiff data check DIR`: look at every picture and caption before a training does."""

from __future__ import annotations

import shlex
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from latentdiff import config, files
from latentdiff.data.buckets import BucketConfig
from latentdiff.data.sources import SourceConfig
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.data.buckets import BucketPlan
    from latentdiff.data.captions import CaptionReport
    from latentdiff.data.check.checking import Findings
    from latentdiff.data.records import Source

PROG = "latentdiff data check"
NAMED = 10
"""Problems of a kind that are named on the terminal; the page names all."""

DESCRIPTION = """\
Look at every picture and every caption before a training does. Each picture is decoded in a
separate process, so one that hangs, swells or crashes the decoder is named and the rest go
on. Found are: what cannot be read and why, what is noted, copies, near-duplicates, pictures that
training and validation share, captions that are missing or too long, and how the pictures fall
into buckets. The pictures are never touched.

Exit code 0: all can be trained on as they are. 1: some are unreadable, copies, leaks or without a
caption; --fix lists the others. 2: the command itself could not be run.

Try: latentdiff data check photos/ --html photos.html --fix photos/usable.jsonl"""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What is looked at, and what is written."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Captioned pictures: a folder, parquet or tar files, or a hub data set."""
    html: Path | None = None
    """Write the findings as one self-contained page, with pictures and histograms."""
    fix: Path | None = None
    """Write a manifest (.jsonl) of the usable pictures, each once, with the captions of its copies.
    It must stand in the pictures' folder or above it; train on it by its name."""
    validation: str | None = None
    """Held-out pictures of the same kinds as DATA: what they share with DATA is a leak."""
    model: str = "snowglobe"
    """Whose tokens and sizes count: snowglobe, a diffusers folder, a single file, a hub id, or
    "none"."""
    source: SourceConfig = field(default_factory=SourceConfig)
    sizes: BucketConfig = field(default_factory=BucketConfig)
    allow_gif_tiff: bool = False
    """Read still GIF and TIFF files too."""
    workers: int | None = None
    """Processes that decode. By default one for each core."""
    seconds: float = 5.0
    """Time for one picture; what takes longer is named and left out."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers is {self.workers}, expected at least 1")
        if not self.seconds > 0:
            raise UserError(f"seconds is {self.seconds}, expected more than 0")
        if self.html is not None and self.html.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"the page {self.html} must end in .html")


def main(argv: list[str]) -> int:
    """Run `latentdiff data check` and return its exit code."""
    options = config.parse(CheckConfig, argv, prog=PROG, description=DESCRIPTION)
    from latentdiff.data.check.checking import check
    from latentdiff.data.check.guarded import default_workers
    from latentdiff.data.check.manifest import refuse_place, write_manifest
    from latentdiff.progress import Progress

    begun = time.monotonic()
    source = options.source.open(options.data, allow_gif_tiff=options.allow_gif_tiff)
    print(source.summary, flush=True)
    validation = None
    if options.validation is not None:
        apart = replace(options.source, split=None)
        validation = apart.open(options.validation, allow_gif_tiff=options.allow_gif_tiff)
        print(f"validation: {validation.summary}", flush=True)
    if options.fix is not None:
        refuse_place(options.fix, source)
    count_tokens, deal = _of_model(options)
    workers = options.workers or default_workers()
    findings = check(
        source,
        validation=validation,
        count_tokens=count_tokens,
        deal=deal,
        workers=workers,
        seconds=options.seconds,
        allow_gif_tiff=options.allow_gif_tiff,
        progress=Progress("looked at"),
    )
    print(f"looked in {time.monotonic() - begun:,.1f} s with {workers} processes")
    for line in lines(findings):
        print(line)
    if options.html is not None:
        _write_page(options, findings, workers, [PROG, *argv])
    if options.fix is not None:
        kept = write_manifest(options.fix, findings)
        print(f"{options.fix}: {kept:,} of {len(source):,} pictures; train on it by this name")
    return 0 if findings.clean else 1


def _of_model(
    options: CheckConfig,
) -> tuple[Callable[[Source], CaptionReport] | None, Callable[[Any], BucketPlan] | None]:
    """What counts tokens and what deals into buckets; only the model's settings are read."""
    if options.model == "none":
        return None, None
    from latentdiff.data.buckets import assign
    from latentdiff.models.model_settings import read_settings

    model = read_settings(options.model)
    multiple = model.geometry.coarsest
    size = options.sizes.resolution or max(model.geometry.own_size or (0,))
    if not size:
        raise UserError(f"the U-Net of {options.model} names no sample_size; give --resolution")
    buckets = options.sizes.make(size, multiple)
    deal = partial(assign, buckets=buckets, multiple=multiple, upscale=options.sizes.upscale)
    return partial(_lengths, tokenizer=model.tokenizer), deal


def _lengths(source: Source, *, tokenizer: Any) -> CaptionReport:
    from latentdiff.conditioning.text import dropped_words, token_counts
    from latentdiff.data.captions import lengths

    return lengths(
        source,
        lambda texts: token_counts(tokenizer, texts),
        int(tokenizer.model_max_length),
        lost_words=lambda texts: dropped_words(tokenizer, texts),
    )


def lines(findings: Findings) -> Iterable[str]:
    """What the terminal says of the findings."""
    by_kind: defaultdict[tuple[bool, str], list[str]] = defaultdict(list)
    for problem in findings.problems:
        by_kind[not problem.fatal, problem.code].append(f"{problem.where}: {problem.reason}")
    for (noted, code), found in sorted(by_kind.items(), key=lambda e: (e[0][0], -len(e[1]))):
        yield from _listed(f"{'noted' if noted else 'left out'}, {code}", found)
    name = findings.source.id
    yield from _listed(
        "copies (equal pixels)", [" = ".join(_short(name, g)) for g in findings.copies]
    )
    yield from _listed(
        "near-duplicates (judge for yourself)",
        [" ~ ".join(_short(name, g)) for g in findings.alike],
    )
    if findings.validation is not None:
        other = findings.validation.id
        how = {"file": "the same file as", "pixels": "the same pixels as", "look": "looks like"}
        leaks = [f"{name(k.row)} {how[k.how]} {other(k.validation_row)}" for k in findings.leaks]
        yield from _listed("leaks into validation", leaks)
        if not leaks:
            yield "\nno leaks: training and validation share no picture"
    if findings.plan is not None:
        yield f"\n{findings.plan.table()}"
    if findings.captions is not None:
        yield f"\n{findings.captions.text()}"
    if findings.shared:
        text, count = findings.shared[0]
        yield f"\n{count:,} pictures share the caption {text[:80]!r}"
    yield "\nin all:"
    width = max(len(words) for words, _ in findings.counts)
    yield from (f"  {words:<{width}} {count:>9,}" for words, count in findings.counts)


def _listed(title: str, entries: Sequence[str]) -> Iterable[str]:
    if not entries:
        return
    yield f"\n{title}: {len(entries):,}"
    yield from (f"  {entry}" for entry in entries[:NAMED])
    if len(entries) > NAMED:
        yield f"  … and {len(entries) - NAMED:,} more (--html names all)"


def _short(name: Callable[[int], str], group: Any, most: int = 4) -> list[str]:
    names = [name(row) for row in group[:most].tolist()]
    return [*names, f"{len(group) - most:,} more"] if len(group) > most else names


def _write_page(
    options: CheckConfig, findings: Findings, workers: int, command: Sequence[str]
) -> None:
    from latentdiff.data.check.check_page import check_page
    from latentdiff.data.check.checking import thumbnails

    assert options.html is not None
    made = partial(thumbnails, workers=workers, seconds=options.seconds)
    text = check_page(findings, made, command=" ".join([command[0], shlex.join(command[1:])]))
    files.write_text(options.html, text)
    print(f"{options.html}: {options.html.stat().st_size / 1e6:.1f} MB, opens in any browser")
