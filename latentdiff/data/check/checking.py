"""Look at every picture of a data set before a training does: `check` finds, `Findings` tells.

Findings are about rows of a source. What makes a row unusable, or worse than useless (a copy, a
leak into validation), is in `left_out`; everything else is for people to judge.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.buckets import BucketPlan
from latentdiff.data.captions import CaptionReport
from latentdiff.data.check import duplicates, fingerprint, look
from latentdiff.data.check.guarded import Failure, guarded_map
from latentdiff.data.records import BadPicture, Problem, Source

SECONDS = 5.0
_BLANK = 1.5  # 8-bit steps of contrast
_SHARED = 10  # pictures with one caption, from which on it is told

Progress = Callable[[int, int], object]
Group = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Looked:
    """What was seen of each row, in columns. n rows; a row that is not `ok` holds zeros.

    ok: (n,) bool, it was decoded. width, height: (n,) int32, pixels. size: (n,) int64, bytes.
    content, pixels: (n,) 16-byte digests. descriptors: (n, fingerprint.CELLS) uint8.
    formats: pictures by format. problems: of decoding, fatal or mended, in order of rows.
    """

    ok: NDArray[np.bool_]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    size: NDArray[np.int64]
    content: NDArray[np.void]
    pixels: NDArray[np.void]
    descriptors: fingerprint.Descriptors
    formats: Counter[str]
    problems: tuple[tuple[int, Problem], ...]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n, 2) width and height, as `buckets.assign` wants them."""
        return np.stack([self.width, self.height], axis=1).astype(np.int64)


@dataclass(frozen=True)
class Leak:
    """A training row that validation shows too; how: the same "file", "pixels", or "look"."""

    row: int
    validation_row: int
    how: Literal["file", "pixels", "look"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """All that `check` found.

    copies: groups of training rows with equal pixels; alike: groups of rows that only look alike,
    one row for each group of copies. leaks: one for each training row that leaks. shared: captions
    that many pictures have, with their number. blank: rows of one even colour.
    """

    source: Source
    looked: Looked
    validation: Source | None = None
    validation_looked: Looked | None = None
    copies: tuple[Group, ...] = ()
    alike: tuple[Group, ...] = ()
    leaks: tuple[Leak, ...] = ()
    without_caption: Group = field(default_factory=lambda: np.empty(0, np.int64))
    captions: CaptionReport | None = None
    shared: tuple[tuple[str, int], ...] = ()
    plan: BucketPlan | None = None

    @property
    def problems(self) -> Iterator[Problem]:
        """Everything that is wrong with single samples: of listing, of decoding, of captions."""
        for source, looked in (
            (self.source, self.looked),
            (self.validation, self.validation_looked),
        ):
            if source is not None and looked is not None:
                yield from source.problems
                yield from (problem for _, problem in looked.problems)
        for row in self.without_caption.tolist():
            yield Problem(self.source.id(row), "caption-missing", "it has no caption")
        for row in self.too_small:
            width, height = self.looked.sizes[row]
            least = self.plan.multiple if self.plan is not None else 1
            reason = f"{width}×{height} px; the model needs {least} or more each way, or --upscale"
            yield Problem(self.source.id(row), "too-small", reason)

    @property
    def too_small(self) -> list[int]:
        """Rows that were decoded and fit no bucket."""
        if self.plan is None:
            return []
        return [row for row in self.plan.too_small.tolist() if self.looked.ok[row]]

    @property
    def too_long(self) -> list[int]:
        """Rows whose every caption is over the text encoder's limit, as training refuses them."""
        if self.captions is None or not self.captions.beyond:
            return []
        beyond = self.captions.beyond
        captions = ((row, self.source.captions(row)) for row in range(len(self.source)))
        return [row for row, texts in captions if any(texts) and beyond.issuperset(texts)]

    def usable_captions(self, row: int) -> list[str]:
        """A row's captions without those over the text encoder's limit."""
        beyond = self.captions.beyond if self.captions is not None else frozenset()
        return [text for text in self.source.captions(row) if text and text not in beyond]

    @property
    def left_out(self) -> dict[int, str]:
        """Rows that a clean data set is without, and why; of copies, the first stays."""
        reasons: dict[int, str] = {}
        for row, problem in self.looked.problems:
            if problem.fatal:
                reasons[row] = problem.code
        for row in self.without_caption.tolist():
            reasons.setdefault(row, "caption-missing")
        for row in self.too_small:
            reasons.setdefault(row, "too-small")
        for row in self.too_long:
            reasons.setdefault(row, "caption-long")
        for leak in self.leaks:
            reasons.setdefault(leak.row, "leak")
        for group in self.copies:
            rest = [row for row in group.tolist() if row not in reasons]
            for row in rest[1:]:
                reasons[row] = "copy"
        return reasons

    @property
    def counts(self) -> list[tuple[str, int]]:
        """What the terminal and the page say in numbers. Entries are usable or left out: rows,
        and what the listing found that could not become one."""
        unlisted = sum(problem.fatal for problem in self.source.problems)
        left_out = len(self.left_out)
        found = [
            ("entries", len(self.source) + unlisted),
            ("usable, each once", len(self.source) - left_out),
            ("left out", left_out + unlisted),
            ("noted", sum(not problem.fatal for problem in self.problems)),
            ("groups of copies", len(self.copies)),
            ("groups alike", len(self.alike)),
        ]
        if self.validation is not None:
            found += [("validation pictures", len(self.validation)), ("leaks", len(self.leaks))]
        if self.captions is not None:
            found.append(("captions too long", self.captions.over))
        return found

    @property
    def clean(self) -> bool:
        """Whether every sample that the data set lists can be trained on as it is."""
        fatal = any(problem.fatal for problem in self.problems)
        long = self.captions is not None and self.captions.over > 0
        return not (fatal or self.copies or self.leaks or long)


def check(
    source: Source,
    *,
    validation: Source | None = None,
    count_tokens: Callable[[Source], CaptionReport] | None = None,
    deal: Callable[[NDArray[np.int64]], BucketPlan] | None = None,
    workers: int,
    seconds: float = SECONDS,
    allow_gif_tiff: bool = False,
    progress: Progress = lambda done, total: None,
) -> Findings:
    """Look at every picture and caption of `source`, and at what it shares with `validation`.

    count_tokens: makes the captions' report. deal: makes the bucket plan of sizes (n, 2), zeros
    where a picture cannot be used. seconds: for one picture. progress: (done, total) pictures.
    """
    total = len(source) + (0 if validation is None else len(validation))

    def see(which: Source, before: int) -> Looked:
        return look_at(
            which,
            workers=workers,
            seconds=seconds,
            allow_gif_tiff=allow_gif_tiff,
            progress=lambda done: progress(before + done, total),
        )

    report = count_tokens(source) if count_tokens is not None else None
    looked = see(source, 0)
    other = see(validation, len(source)) if validation is not None else None
    alike, leaks = find_alike(looked, other)
    return Findings(
        source=source,
        looked=looked,
        validation=validation,
        validation_looked=other,
        copies=find_copies(looked),
        alike=alike,
        leaks=leaks,
        without_caption=without_caption(source),
        captions=report,
        shared=shared_captions(source),
        plan=deal(looked.sizes) if deal is not None and looked.ok.any() else None,
    )


def look_at(
    source: Source,
    *,
    workers: int,
    seconds: float = SECONDS,
    allow_gif_tiff: bool = False,
    progress: Callable[[int], object] = lambda done: None,
) -> Looked:
    """Decode every picture of a source, in worker processes that may hang, swell or die.

    seconds: for one picture. progress: called with the number of rows done so far.
    """
    count = len(source)
    ok = np.zeros(count, np.bool_)
    width, height = np.zeros(count, np.int32), np.zeros(count, np.int32)
    size = np.zeros(count, np.int64)
    content, pixels = np.zeros(count, "V16"), np.zeros(count, "V16")
    descriptors = np.zeros((count, fingerprint.CELLS), np.uint8)
    formats: Counter[str] = Counter()
    problems: list[tuple[int, Problem]] = []
    done = 0

    def failed(row: int, code: str, reason: str, fatal: bool = True) -> None:
        problems.append((row, Problem(source.id(row), code, reason, fatal)))

    def encoded() -> Iterator[tuple[int, bytes]]:
        nonlocal done
        for row in range(count):
            try:
                data = source.read(row)
            except BadPicture as problem:
                failed(row, problem.code, str(problem))
                done += 1
                continue
            yield row, data

    function = look.LOOK_ANY if allow_gif_tiff else look.LOOK
    for row, answer in guarded_map(function, encoded(), workers=workers, seconds=seconds):
        done += 1
        progress(done)
        try:
            if isinstance(answer, Failure):
                raise BadPicture(answer.code, answer.reason)
            seen = look.read_answer(answer)
        except BadPicture as problem:
            failed(row, problem.code, str(problem))
            continue
        ok[row] = True
        width[row], height[row], size[row] = seen.width, seen.height, seen.size
        content[row], pixels[row] = np.void(seen.content), np.void(seen.pixels)
        descriptors[row] = seen.descriptor
        formats[seen.format] += 1
        for note in seen.notes:
            code, _, words = note.partition(": ")
            failed(row, code, words or code, fatal=False)
    progress(done)  # the last rows may have been unreadable
    for row in _blank(ok, descriptors, problems):
        failed(row, "blank", "it is of one even colour", fatal=False)
    problems.sort(key=lambda entry: entry[0])
    return Looked(ok, width, height, size, content, pixels, descriptors, formats, tuple(problems))


def _blank(
    ok: NDArray[np.bool_],
    descriptors: fingerprint.Descriptors,
    problems: list[tuple[int, Problem]],
) -> list[int]:
    """Rows of one even colour that are not yet noted as such."""
    known = {row for row, problem in problems if problem.code == "blank"}
    even = np.flatnonzero(ok & (fingerprint.contrast(descriptors) < _BLANK))
    return [row for row in even.tolist() if row not in known]


def find_copies(looked: Looked) -> tuple[Group, ...]:
    """Groups of rows with equal pixels."""
    rows = np.flatnonzero(looked.ok)
    return tuple(rows[group] for group in duplicates.equal_groups(looked.pixels[rows]))


def find_alike(
    looked: Looked, other: Looked | None = None
) -> tuple[tuple[Group, ...], tuple[Leak, ...]]:
    """Groups of rows that look alike but are not equal; and what `looked` shares with `other`.

    Equal pictures stand for each other: each distinct one is compared once.
    """
    sides = [looked] if other is None else [looked, other]
    firsts = [_distinct(side) for side in sides]
    kept = [side.descriptors[rows] for side, rows in zip(sides, firsts, strict=True)]
    pairs = duplicates.near_pairs(np.concatenate(kept))
    mine = len(firsts[0])
    within = pairs[pairs[:, 1] < mine]
    alike = tuple(firsts[0][group] for group in duplicates.groups(mine, within))
    if other is None:
        return alike, ()
    near: dict[int, int] = {}
    for group in duplicates.groups(sum(map(len, firsts)), pairs):
        theirs = group[group >= mine] - mine
        if len(theirs):
            near.update(dict.fromkeys(firsts[0][group[group < mine]].tolist(), int(theirs[0])))
    # A direct pair says more than a common group.
    across = pairs[(pairs[:, 0] < mine) & (pairs[:, 1] >= mine)]
    near.update((int(firsts[0][a]), int(b - mine)) for a, b in across[::-1].tolist())
    near = {row: int(firsts[1][theirs]) for row, theirs in near.items()}
    return alike, _leaks(looked, other, near)


def _distinct(looked: Looked) -> NDArray[np.int64]:
    """The first row of each different picture."""
    rows = np.flatnonzero(looked.ok)
    _, first = np.unique(looked.pixels[rows], return_index=True)
    return rows[np.sort(first)]


def _leaks(looked: Looked, other: Looked, near: dict[int, int]) -> tuple[Leak, ...]:
    files: dict[bytes, int] = {}
    pixels: dict[bytes, int] = {}
    for row in np.flatnonzero(other.ok).tolist():
        files.setdefault(other.content[row].tobytes(), row)
        pixels.setdefault(other.pixels[row].tobytes(), row)
    same = {looked.pixels[row].tobytes(): theirs for row, theirs in near.items()}
    found = []
    for row in np.flatnonzero(looked.ok).tolist():
        content, seen = looked.content[row].tobytes(), looked.pixels[row].tobytes()
        if content in files:
            found.append(Leak(row, files[content], "file"))
        elif seen in pixels:
            found.append(Leak(row, pixels[seen], "pixels"))
        elif seen in same:
            found.append(Leak(row, same[seen], "look"))
    return tuple(found)


def without_caption(source: Source) -> Group:
    """Rows whose captions are all empty."""
    rows = [row for row in range(len(source)) if not any(source.captions(row))]
    return np.asarray(rows, np.int64)


def shared_captions(source: Source, most: int = 20) -> tuple[tuple[str, int], ...]:
    """Captions that many pictures share, and how many, most first."""
    counts: Counter[str] = Counter()
    for row in range(len(source)):
        counts.update(set(source.captions(row)))
    counts.pop("", None)
    return tuple((text, n) for text, n in counts.most_common(most) if n >= _SHARED)


def thumbnails(
    source: Source, rows: Iterable[int], *, workers: int, seconds: float = SECONDS
) -> dict[int, bytes]:
    """Row -> a small JPEG, for the rows that can be decoded."""

    def encoded() -> Iterator[tuple[int, bytes]]:
        for row in rows:
            with contextlib.suppress(BadPicture):  # it went since it was looked at
                yield row, source.read(row)

    made = guarded_map(look.THUMBNAIL, encoded(), workers=workers, seconds=seconds)
    return {row: data for row, data in made if isinstance(data, bytes) and data}
