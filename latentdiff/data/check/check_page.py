"""`data check` as one self-contained HTML page: figures, pictures, charts, tables."""

from __future__ import annotations

import datetime
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.captions import CaptionReport
from latentdiff.data.check.checking import Findings, Looked
from latentdiff.data.records import Problem, Source
from latentdiff.html import page
from latentdiff.html.page import Html

SHEET = 48
GROUPS = 24
IN_GROUP = 6
LISTED = 2000
TOGETHER = 30

Thumbnails = Callable[[Source, Sequence[int]], dict[int, bytes]]

_RATIOS = (
    (0.25, "1:4"),
    (0.5, "1:2"),
    (2 / 3, "2:3"),
    (1.0, "1:1"),
    (1.5, "3:2"),
    (2.0, "2:1"),
    (4.0, "4:1"),
)


def check_page(findings: Findings, thumbnails: Thumbnails, *, command: str = "") -> str:
    """The page's text. thumbnails: (source, rows) -> row -> JPEG, without those that failed."""
    pictures = _Pictures(findings, thumbnails)
    problems = list(findings.problems)
    sections = [
        _facts(findings),
        _problems(problems),
        _leaks(findings, pictures),
        _groups(
            "Copies",
            "Equal pixels, whatever the files. In a manifest the first stays, with all captions.",
            findings.copies,
            findings.source,
            pictures,
        ),
        _groups(
            "Near-duplicates",
            "One picture, re-encoded, resized or cropped by a little; judge for yourself.",
            findings.alike,
            findings.source,
            pictures,
        ),
        _sheet(findings, pictures),
        _sizes(findings.looked),
        _buckets(findings),
        _captions(findings),
    ]
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    footer = page.join((f"{now} · ", page.element("code", command)) if command else (now,))
    return page.page(
        f"data check: {findings.source.name}",
        *(section for section in sections if section),
        lead=findings.source.summary,
        footer=footer,
    )


class _Pictures:
    """Thumbnails of all rows that the page shows, made in one go for each source."""

    def __init__(self, findings: Findings, thumbnails: Thumbnails) -> None:
        usable = np.flatnonzero(findings.looked.ok)
        step = max(1, -(-len(usable) // SHEET))
        self.sheet = usable[::step].tolist()
        rows = set(self.sheet)
        for groups in (findings.copies, findings.alike):
            rows.update(row for group in groups[:GROUPS] for row in group[:IN_GROUP].tolist())
        leaks = findings.leaks[:GROUPS]
        rows.update(leak.row for leak in leaks)
        self._made = {id(findings.source): thumbnails(findings.source, sorted(rows))}
        if findings.validation is not None:
            other = sorted({leak.validation_row for leak in leaks})
            self._made[id(findings.validation)] = thumbnails(findings.validation, other)

    def show(self, source: Source, row: int, under: object) -> tuple[Html, object]:
        data = self._made[id(source)].get(row)
        name = source.id(row)
        if not data:
            return page.element("p", "cannot be shown", class_="note"), under
        return page.image(data, "image/jpeg", alt=name), under


_SIGNALS = {
    "left out": "bad",
    "leaks": "bad",
    "groups of copies": "warn",
    "groups alike": "warn",
    "captions too long": "warn",
}


def _facts(findings: Findings) -> Html:
    return page.facts(
        (words, _signal(count, _SIGNALS[words]) if words in _SIGNALS else f"{count:,}")
        for words, count in findings.counts
    )


def _signal(count: int, class_: str) -> Html:
    return page.element("span", f"{count:,}", class_=class_ if count else "good")


def _problems(problems: Sequence[Problem]) -> Html:
    if not problems:
        return page.section("Problems", page.element("p", "None.", class_="good"))
    parts = []
    for fatal, title in ((True, "What leaves an entry out"), (False, "What is noted")):
        found = [problem for problem in problems if problem.fatal is fatal]
        if found:
            parts += [page.element("h3", title), *_by_code(found)]
    return page.section("Problems", *parts)


def _by_code(problems: Sequence[Problem]) -> Iterable[Html]:
    """One table when there are few, otherwise one for each kind, folded away."""
    by_code: defaultdict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_code[problem.code].append(problem)
    kinds = sorted(by_code.items(), key=lambda entry: -len(entry[1]))
    if len(problems) <= TOGETHER:
        rows = [(code, p.where, p.reason) for code, found in kinds for p in found]
        yield page.table(("kind", "where", "what"), rows)
        return
    for code, found in kinds:
        pairs = [(problem.where, problem.reason) for problem in found[:LISTED]]
        yield page.details(
            page.join((page.element("b", code), f" · {len(found):,}")),
            page.table(("where", "what"), pairs),
            _more(len(found) - LISTED, "of this kind"),
        )


def _leaks(findings: Findings, pictures: _Pictures) -> Html | None:
    if findings.validation is None or not findings.leaks:
        return None
    how = {"file": "the same file", "pixels": "the same pixels", "look": "looks the same"}
    groups = []
    for leak in findings.leaks[:GROUPS]:
        shown = page.pictures(
            [
                pictures.show(
                    findings.source, leak.row, f"training: {findings.source.id(leak.row)}"
                ),
                pictures.show(
                    findings.validation,
                    leak.validation_row,
                    f"validation: {findings.validation.id(leak.validation_row)}",
                ),
            ]
        )
        groups.append(_group(how[leak.how], shown))
    more = _more(len(findings.leaks) - len(groups), "leaks")
    note = "Training pictures that validation shows too: what is measured on them is memory."
    return page.section("Leaks into validation", _wall(groups), more, note=note)


def _groups(
    title: str,
    note: str,
    groups: Sequence[NDArray[np.int64]],
    source: Source,
    pictures: _Pictures,
) -> Html | None:
    if not groups:
        return None
    shown = []
    for group in groups[:GROUPS]:
        rows = group[:IN_GROUP].tolist()
        grid = page.pictures(pictures.show(source, row, source.id(row)) for row in rows)
        rest = f", {len(group) - len(rows)} not shown" if len(group) > len(rows) else ""
        shown.append(_group(f"{len(group)} pictures{rest}", grid))
    more = _more(len(groups) - len(shown), "groups")
    return page.section(title, _wall(shown), more, note=note)


def _group(name: str, grid: Html) -> Html:
    return page.element("div", page.element("p", name, class_="note"), grid, class_="group")


def _wall(groups: Iterable[Html]) -> Html:
    return page.element("div", *groups, class_="wall")


def _more(count: int, what: str) -> Html | str:
    return page.element("p", f"… and {count:,} more {what}", class_="note") if count > 0 else ""


def _sheet(findings: Findings, pictures: _Pictures) -> Html | None:
    if not pictures.sheet:
        return None
    source, looked = findings.source, findings.looked
    shown = []
    for row in pictures.sheet:
        captions = source.captions(row)
        words = _cut(captions[0], 120)
        several = f" (+{len(captions) - 1})" if len(captions) > 1 else ""
        size = f"{looked.width[row]}×{looked.height[row]}"
        under = page.join(
            (page.element("b", page.element("bdi", words), several), Html("<br>"), size, " · ")
        )
        shown.append(
            pictures.show(source, row, page.join((under, page.element("bdi", source.id(row)))))
        )
    count = int(looked.ok.sum())
    note = "All pictures." if len(shown) == count else f"{len(shown)} of {count:,}, evenly spread."
    return page.section("Contact sheet", page.pictures(shown), note=note)


def _sizes(looked: Looked) -> Html | None:
    if not looked.ok.any():
        return None
    width = looked.width[looked.ok].astype(np.float64)
    height = looked.height[looked.ok].astype(np.float64)
    drawn = [
        _chart("Shorter side", np.minimum(width, height), "pixels"),
        _aspects(width / height),
        _chart("File size", looked.size[looked.ok] / 1024, "KiB", log=True),
    ]
    sizes = Counter(
        zip(looked.width[looked.ok].tolist(), looked.height[looked.ok].tolist(), strict=True)
    )
    common = [(f"{w}×{h}", f"{n:,}", f"{n / len(width):.1%}") for (w, h), n in sizes.most_common(8)]
    sizes_note = f"{len(sizes):,} different sizes" if len(sizes) > 1 else f"all {common[0][0]}"
    kinds = ", ".join(f"{n:,} {name}" for name, n in looked.formats.most_common())
    return page.section(
        "Sizes",
        page.charts([chart for chart in drawn if chart is not None]),
        page.table(("most common size", "pictures", "share"), common, numeric=(1, 2)),
        note=f"{sizes_note}; {kinds}.",
    )


def _chart(
    title: str, values: NDArray[np.float64], unit: str, *, log: bool = False
) -> tuple[str, Html] | None:
    """A histogram; None when all values are equal, which the table of sizes says better."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        return None
    if not log:
        counts, edges = np.histogram(values, bins=24)
        return title, page.histogram(counts.tolist(), edges.tolist(), x_label=unit)
    low = max(low, 1e-3)
    edges = np.linspace(np.log10(low), np.log10(high * 1.0001), 25)
    counts, _ = np.histogram(np.log10(np.maximum(values, low)), bins=edges)
    names = [f"{10**a:.3g} to {10**b:.3g} {unit}" for a, b in itertools.pairwise(edges)]
    powers = range(int(np.floor(edges[0])), int(np.ceil(edges[-1])) + 1)
    marks = [m * 10.0**p for p in powers for m in (1, 3)]
    ticks = [(np.log10(m), page.number(m)) for m in marks if edges[0] <= np.log10(m) <= edges[-1]]
    drawn = page.histogram(
        counts.tolist(), edges.tolist(), x_label=f"{unit}, log scale", ticks=ticks, names=names
    )
    return title, drawn


def _aspects(ratio: NDArray[np.float64]) -> tuple[str, Html] | None:
    if float(ratio.max() - ratio.min()) < 1e-9:
        return None
    reach = max(1.0, min(2.5, float(np.abs(np.log2(ratio)).max()) + 0.05))
    edges = np.linspace(-reach, reach, 26)  # odd number of bars: the square stands in the middle
    counts, _ = np.histogram(np.clip(np.log2(ratio), -reach, reach), bins=edges)
    ticks = [(float(np.log2(r)), name) for r, name in _RATIOS if abs(np.log2(r)) <= reach]
    names = [f"{2**a:.2f} to {2**b:.2f}" for a, b in itertools.pairwise(edges)]
    drawn = page.histogram(
        counts.tolist(), edges.tolist(), x_label="width : height", ticks=ticks, names=names
    )
    return "Aspect ratio", drawn


def _buckets(findings: Findings) -> Html | None:
    plan = findings.plan
    if plan is None or not plan.buckets:
        return None
    used = plan.bucket_of >= 0
    losses = np.bincount(plan.bucket_of[used], plan.crop_loss[used], len(plan.buckets))
    upscaled = np.bincount(plan.bucket_of[used & plan.upscaled], minlength=len(plan.buckets))
    rows = [
        (f"{b.width}×{b.height}", f"{n:,}", f"{loss / n:.1%}", f"{up:,}")
        for b, n, loss, up in zip(plan.buckets, plan.counts, losses, upscaled, strict=True)
    ]
    total = int(plan.counts.sum())
    rows.append(("all", f"{total:,}", f"{losses.sum() / total:.1%}", f"{int(upscaled.sum()):,}"))
    note = "What training makes of them: nothing is scaled up unless --upscale asks for it."
    headers = ("bucket", "pictures", "crop loss", "upscaled")
    return page.section("Buckets", page.table(headers, rows, numeric=(1, 2, 3)), note=note)


def _captions(findings: Findings) -> Html | None:
    report = findings.captions
    parts: list[object] = []
    if report is not None and report.histogram.sum():
        parts.append(page.charts([("Caption length", _lengths(report))]))
        if report.over:
            rows = [
                (long.id, str(long.tokens), _cut(" ".join(long.lost), 240) or "its last words")
                for long in report.long
            ]
            parts.append(page.element("h3", f"Over the limit: {report.over:,}"))
            parts.append(page.table(("where", "tokens", "words lost"), rows, numeric=(1,)))
            parts.append(_more(report.over - len(rows), "captions"))
    if findings.shared:
        total = len(findings.source)
        parts.append(page.element("h3", "One caption for many pictures"))
        rows = [(text, f"{n:,}", f"{n / total:.1%}") for text, n in findings.shared]
        parts.append(page.table(("caption", "pictures", "share"), rows, numeric=(1, 2)))
    return page.section("Captions", *parts) if parts else None


def _lengths(report: CaptionReport) -> Html:
    """The histogram of tokens; what is more than twice over the limit shares the last bar."""
    most = 2 * report.limit
    counts = report.histogram[: most + 1].copy()
    if len(report.histogram) > most + 1:
        counts[most] += report.histogram[most + 1 :].sum()
    step = max(1, -(-len(counts) // 40))
    padded = np.pad(counts, (0, -len(counts) % step)).reshape(-1, step).sum(axis=1)
    edges = [k * step - 0.5 for k in range(len(padded) + 1)]
    names = [
        f"{k * step} tokens" if step == 1 else f"{k * step} to {k * step + step - 1} tokens"
        for k in range(len(padded))
    ]
    if len(counts) == most + 1:
        names[-1] = f"{(len(padded) - 1) * step} tokens and more"
    return page.histogram(
        padded.tolist(),
        edges,
        x_label="tokens, begin and end marks included",
        names=names,
        mark=(report.limit + 0.5, f"limit: {report.limit}"),
    )


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1].rstrip()}…"
