"""Fixed images of a source for validation: cut in the middle, with their first caption."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from latentdiff.data.bad_samples import BadSamples
from latentdiff.data.buckets import Bucket, assign
from latentdiff.data.decode.decoding import decode
from latentdiff.data.records import BadPicture, Source
from latentdiff.data.transforms import fit
from latentdiff.training.feeds.feed import Entry
from latentdiff.training.feeds.settings import FeedSettings


def entries_of(
    source: Source,
    rows: Iterable[int],
    count: int,
    *,
    settings: FeedSettings,
    buckets: Sequence[Bucket],
    bad: BadSamples,
) -> list[Entry]:
    """The first `count` of the rows that can be used."""
    policy = settings.policy()
    entries: list[Entry] = []
    for row in rows:
        if len(entries) == count:
            break
        try:
            image = decode(source.read(row)).image
            plan = assign(
                [image.size], buckets, multiple=settings.multiple, upscale=settings.upscale
            )
            if len(plan.too_small):
                continue
            cut = fit(image, plan.bucket(0), upscale=settings.upscale)
        except BadPicture as problem:
            bad.add(source.id(row), problem)
            continue
        text = next(iter(policy.texts(source.captions(row))), "")
        entries.append(Entry(id=source.id(row), image=cut, caption=text))
    return entries
