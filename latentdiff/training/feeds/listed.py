"""What feeds of the user's own pictures share: opening a source, and taking fixed entries of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from latentdiff.data.bad_samples import NAME as BAD_SAMPLES
from latentdiff.data.bad_samples import BadSamples
from latentdiff.data.buckets import Bucket, assign
from latentdiff.data.captions import CaptionPolicy
from latentdiff.data.decode.decoding import decode
from latentdiff.data.records import BadPicture, Source
from latentdiff.data.transforms import fit
from latentdiff.progress import Progress
from latentdiff.training.feeds.data_config import DataConfig
from latentdiff.training.feeds.feed import Entry
from latentdiff.training.launch import rank


def watch(what: str) -> Callable[[int, int], None]:
    """`progress(done, total)` of something that may take long; the main process says it."""
    if rank() == 0:
        return Progress(what, patience=3.0)
    return lambda done, total: None


def forget_bad_samples(run: Path) -> None:
    """Remove the list of a run that never came to a checkpoint; the main process does it."""
    if rank() == 0 and not (run / "checkpoints").exists():
        (run / BAD_SAMPLES).unlink(missing_ok=True)


def open_named(pictures: DataConfig, where: str) -> Source:
    """A source with the run's column names and template."""
    return pictures.source.open(where)


def entries_of(
    source: Source,
    rows: Iterable[int],
    count: int,
    *,
    buckets: Sequence[Bucket],
    multiple: int,
    upscale: bool,
    policy: CaptionPolicy,
    bad: BadSamples,
) -> list[Entry]:
    """The first `count` of the rows that can be used, cut in the middle, first caption."""
    entries: list[Entry] = []
    for row in rows:
        if len(entries) == count:
            break
        try:
            image = decode(source.read(row)).image
            plan = assign([image.size], buckets, multiple=multiple, upscale=upscale)
            if len(plan.too_small):
                continue
            picture = fit(image, plan.bucket(0), upscale=upscale)
        except BadPicture as problem:
            bad.add(source.id(row), problem)
            continue
        text = next(iter(policy.texts(source.captions(row))), "")
        entries.append(Entry(id=source.id(row), picture=picture, caption=text))
    return entries
