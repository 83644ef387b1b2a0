"""Self-contained HTML pages: escaped text, a style for light and dark, phone and desk, small SVG.

A page is one file: pictures are `data:` addresses, charts are inline SVG, there is no script, and
its content security policy forbids fetching anything. Every helper escapes what it is given unless
that is `Html` already, so text from a data set never becomes markup.

Charts are drawn in a box `CHART_WIDTH` units wide and laid out in columns of about that many CSS
pixels (`charts`), so their text keeps its size on a phone. Colours come from the style sheet by
class (`bar`, `line-1` …, `axis`, `label`), so charts follow the dark mode.
"""

from __future__ import annotations

import base64
import html
import itertools
import math
from collections.abc import Iterable, Sequence

CHART_WIDTH = 360

_STYLE = """
:root{color-scheme:light dark;--ground:#fbfbfa;--card:#fff;--ink:#1d2126;--soft:#5d666f;
--rule:#e1e4e8;--accent:#2f6fde;--second:#c2571a;--third:#2a8a57;--fourth:#8a4fc4;--good:#23804c;
--bad:#c0392b;--warn:#9a6700;--shade:#f1f3f5}
@media(prefers-color-scheme:dark){:root{--ground:#14171a;--card:#1c2024;--ink:#e6e8ea;--soft:#9aa4ae;
--rule:#31373d;--accent:#6ea3ff;--second:#f0955c;--third:#5cc48d;--fourth:#bd91ee;--good:#5cc48d;
--bad:#ff8273;--warn:#e0b04c;--shade:#24292e}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1080px;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.25rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--rule)}
h3{font-size:.95rem;margin:1.25rem 0 .4rem}
p{margin:.4rem 0;max-width:46rem;overflow-wrap:anywhere}
.note,.lead,footer{color:var(--soft)}
.note{font-size:.9rem}
footer{margin-top:3rem;font-size:.85rem}
code,pre{font:.85em/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{overflow-wrap:anywhere}
pre{background:var(--shade);border-radius:6px;padding:.7rem .9rem;margin:.5rem 0;
white-space:pre-wrap;overflow-wrap:anywhere}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));
gap:.6rem;margin:1rem 0}
.facts>div{background:var(--card);border:1px solid var(--rule);border-radius:8px;
padding:.55rem .75rem}
.facts dt{color:var(--soft);font-size:.8rem}
.facts dd{margin:0;font-size:1.2rem;font-weight:600;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.88rem}
th,td{text-align:start;vertical-align:top;padding:.32rem .9rem .32rem 0;
border-bottom:1px solid var(--rule)}
td{overflow-wrap:anywhere;min-width:6rem}
th{color:var(--soft);font-weight:500;white-space:nowrap}
.number{text-align:end;font-variant-numeric:tabular-nums;white-space:nowrap;min-width:0}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(19rem,100%),1fr));gap:1rem;
margin:.75rem 0}
.charts figure,.chart{margin:0;background:var(--card);border:1px solid var(--rule);
border-radius:8px;padding:.6rem .6rem .35rem;max-width:32rem}
.charts figcaption{font-size:.88rem;font-weight:600;padding:0 .15rem .25rem}
svg{display:block;width:100%;height:auto;font:11px system-ui,sans-serif}
svg .bar{fill:var(--accent)}svg .bar-2{fill:var(--second)}svg .bar-3{fill:var(--third)}
svg .bar:hover,svg .bar-2:hover{opacity:.75}
svg .label{fill:var(--soft)}svg .axis{stroke:var(--rule);stroke-width:1;fill:none}
svg .mark{stroke:var(--bad);stroke-width:1.25;stroke-dasharray:4 3;fill:none}
svg .mark-label{fill:var(--bad)}
svg .line-1,svg .line-2,svg .line-3,svg .line-4{fill:none;stroke-width:1.6;stroke-linejoin:round}
svg .line-1{stroke:var(--accent)}svg .line-2{stroke:var(--second)}svg .line-3{stroke:var(--third)}
svg .line-4{stroke:var(--fourth)}svg .faint{opacity:.3}
svg .fill-1{fill:var(--accent)}svg .fill-2{fill:var(--second)}svg .fill-3{fill:var(--third)}
svg .fill-4{fill:var(--fourth)}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(7rem,1fr));gap:.8rem .6rem;
margin:.75rem 0}
.samples .pictures{grid-template-columns:repeat(auto-fill,minmax(10rem,1fr))}
.pictures figure{margin:0;min-width:0}
.pictures img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--shade);
border-radius:6px;outline:1px solid var(--rule);outline-offset:-1px}
.pictures figcaption{font-size:.75rem;line-height:1.35;color:var(--soft);margin-top:.25rem;
overflow-wrap:anywhere}
.pictures figcaption b{color:var(--ink);font-weight:500}
.wall{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(19rem,100%),1fr));
gap:.8rem 1rem}
.group{border-inline-start:3px solid var(--rule);padding-inline-start:.8rem;min-width:0}
.sheet{display:block;max-width:100%;height:auto;border-radius:6px}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--accent)}
@media print{body{background:#fff}main{max-width:none}}
"""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Markup that is safe to put into a page as it stands."""

    __slots__ = ()


def printable(value: object) -> str:
    """`value` as text in which controls and lone surrogates are written out, as \\x00."""
    return "".join(
        character
        if character.isprintable() or character in "\n\t" or _is_joiner(character)
        else character.encode("unicode_escape").decode("ascii")
        for character in str(value)
    )


def _is_joiner(character: str) -> bool:
    # What builds one emoji or one word of many scripts; direction marks are not among them.
    return character in "\u200c\u200d\ufe0f"


def text(value: object) -> Html:
    """`value` escaped for a page; `Html` passes as it is."""
    return value if isinstance(value, Html) else Html(html.escape(printable(value), quote=True))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """`<tag attributes>children</tag>`; a trailing `_` in an attribute's name is dropped.

    An attribute that is None is left out, an inner `_` becomes `-` (`text_anchor`, `aria_label`).
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = "".join(text(child) for child in children)
    return Html(f"<{tag}{written}>{inner}</{tag}>")


def void(tag: str, **attributes: object) -> Html:
    """A tag without content, such as `img`."""
    return Html(str(element(tag, **attributes)).removesuffix(f"</{tag}>"))


def join(parts: Iterable[object], separator: str = "") -> Html:
    """The parts, escaped, side by side."""
    return Html(text(separator).join(text(part) for part in parts))


def data_uri(data: bytes, media_type: str) -> str:
    """A `data:` address that holds the bytes, for `src`."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def image(data: bytes, media_type: str, *, alt: str, class_: str | None = None) -> Html:
    """An encoded picture inside the page; `alt` says what it shows."""
    return void("img", src=data_uri(data, media_type), alt=alt, class_=class_)


def pictures(items: Iterable[tuple[Html, object]]) -> Html:
    """A grid of (picture, what stands under it)."""
    figures = (
        element("figure", picture, element("figcaption", element("bdi", under)))
        for picture, under in items
    )
    return element("div", join(figures), class_="pictures")


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """A row of figures: (what it is, its value)."""
    tiles = (element("div", element("dt", name), element("dd", value)) for name, value in pairs)
    return element("dl", join(tiles), class_="facts")


def table(
    headers: Sequence[object], rows: Iterable[Sequence[object]], *, numeric: Iterable[int] = ()
) -> Html:
    """A table that scrolls sideways where it is too wide; `numeric` columns stand at the right."""
    right = frozenset(numeric)

    def row(tag: str, cells: Sequence[object]) -> Html:
        return element(
            "tr",
            *(
                element(
                    tag,
                    cell if isinstance(cell, Html) else element("bdi", cell),
                    class_="number" if column in right else None,
                )
                for column, cell in enumerate(cells)
            ),
        )

    head = element("thead", row("th", headers))
    body = element("tbody", join(row("td", cells) for cells in rows))
    return element("div", element("table", head, body), class_="scroll")


def details(summary: object, *children: object, opened: bool = False) -> Html:
    """What is folded away until it is clicked; needs no script."""
    return element("details", element("summary", summary), *children, open="" if opened else None)


def section(title: str, *children: object, note: object = "") -> Html:
    """A titled part of the page; `note` is a line in a softer tone below the title."""
    return element(
        "section",
        element("h2", title),
        element("p", note, class_="note") if note else "",
        *children,
    )


def charts(items: Iterable[tuple[object, Html]]) -> Html:
    """Charts side by side where there is room: (title, SVG)."""
    figures = (element("figure", element("figcaption", title), svg) for title, svg in items)
    return element("div", join(figures), class_="charts")


def page(title: str, *sections: object, lead: object = "", footer: object = "") -> str:
    """The whole file's text."""
    head = join(
        (
            Html('<meta charset="utf-8">'),
            void("meta", name="viewport", content="width=device-width, initial-scale=1"),
            void("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("title", title),
            element("style", Html(_STYLE)),
        )
    )
    body = element(
        "main",
        element("h1", title),
        element("p", lead, class_="lead") if lead else "",
        *sections,
        element("footer", footer) if footer else "",
    )
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>{body}</body>\n</html>\n'


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) within [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def number(value: float) -> str:
    """A number as short as an axis wants it: 12, 0.05, 1,200, 3.4e-07."""
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:.3g}"


def svg(children: Iterable[object], *, height: float, describes: str) -> Html:
    """A drawing `CHART_WIDTH` wide; `describes` is what a screen reader says."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {CHART_WIDTH} {height:g}",
        role="img",
        aria_label=describes,
    )


def label(
    x: float, y: float, value: object, *, anchor: str = "start", class_: str = "label"
) -> Html:
    """Text in a drawing; anchor: start, middle or end."""
    return element("text", value, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_)


def histogram(
    counts: Sequence[float],
    edges: Sequence[float],
    *,
    x_label: str,
    ticks: Sequence[tuple[float, str]] | None = None,
    names: Sequence[str] | None = None,
    mark: tuple[float, str] | None = None,
    height: float = 170,
) -> Html:
    """Bars of `counts` (n) between `edges` (n + 1, rising); pointing at a bar shows its count.

    ticks: (place on the x axis, text); round numbers when None. names: what each bar is called,
    its edges when None. mark: a dashed line at a place on the x axis, with its text.
    """
    left, right, top, bottom = 6.0, CHART_WIDTH - 8.0, 18.0, height - 34.0
    low, high = float(edges[0]), float(edges[-1])
    tallest = max([*map(float, counts), 1.0])

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / ((high - low) or 1.0)

    parts: list[Html] = [label(left, 11, f"most in one bar: {number(max([*counts, 0]))}")]
    called = names or [f"{number(a)} to {number(b)}" for a, b in itertools.pairwise(edges)]
    for count, start, stop, name in zip(counts, edges[:-1], edges[1:], called, strict=True):
        if count:
            tall = max((bottom - top) * float(count) / tallest, 1.5)
            parts.append(
                element(
                    "rect",
                    element("title", f"{name}: {number(count)}"),
                    x=f"{x(start) + 0.5:.2f}",
                    y=f"{bottom - tall:.2f}",
                    width=f"{max(x(stop) - x(start) - 1.0, 1.0):.2f}",
                    height=f"{tall:.2f}",
                    class_="bar",
                )
            )
    parts.append(element("path", d=f"M{left} {bottom}H{right}", class_="axis"))
    for place, name in ticks or [(t, number(t)) for t in nice_ticks(low, high, 5)]:
        at = x(place)
        anchor = "start" if at < left + 12 else "end" if at > right - 12 else "middle"
        parts.append(element("path", d=f"M{at:.1f} {bottom}v4", class_="axis"))
        parts.append(label(at, bottom + 15, name, anchor=anchor))
    parts.append(label((left + right) / 2, height - 4, x_label, anchor="middle"))
    if mark is not None and low <= mark[0] <= high:
        at = x(mark[0])
        anchor = "end" if at > CHART_WIDTH / 2 else "start"
        parts.append(element("path", d=f"M{at:.1f} {top}V{bottom}", class_="mark"))
        shift = -4 if anchor == "end" else 4
        parts.append(label(at + shift, top + 9, mark[1], anchor=anchor, class_="mark-label"))
    return svg(parts, height=height, describes=f"histogram of {x_label}")
