"""Curves as inline SVG, in the style of `data.page`: no script, sizes for a phone, dark mode."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from latentdiff.html.page import CHART_WIDTH, Html, element, label, nice_ticks, number, svg

_POINTS = 400
_BOTTOM = 34.0
_STYLES = 4

_Place = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve: y over x, both finite or not; points that are not finite interrupt it.

    error: half the width of each point's interval; its points are then drawn, with bars.
    faint: raw values behind their mean. style: 1 … 4, the colours of the page's style sheet.
    """

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    error: Sequence[float] | None = None
    faint: bool = False
    style: int = 1

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or (
            self.error is not None and len(self.error) != len(self.x)
        ):
            raise ValueError("a curve's x, y and error have different lengths")
        if not 1 <= self.style <= _STYLES:
            raise ValueError(f"style is {self.style}, expected 1 … {_STYLES}")

    def bars(self) -> Iterator[tuple[float, float, float]]:
        """(x, y, half width) of every finite point; a half width that is not finite is 0."""
        widths = self.error if self.error is not None else [0.0] * len(self.x)
        for x, y, half in zip(self.x, self.y, widths, strict=True):
            if math.isfinite(x) and math.isfinite(y):
                yield x, y, half if math.isfinite(half) else 0.0


def smooth(values: Sequence[float], *, window: float) -> list[float]:
    """A running mean with exponential weights, unbiased from the first value on.

    window: about how many values it averages over. Values that are not finite are passed over.
    """
    keep = 1.0 - 1.0 / max(1.0, window)
    total = weight = 0.0
    out = []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1.0
        out.append(total / weight if weight else math.nan)
    return out


def thin(
    x: Sequence[float], y: Sequence[float], limit: int = _POINTS
) -> tuple[list[float], list[float]]:
    """At most `limit` points: the means of equal runs of points; a run with a NaN is NaN."""
    if len(x) <= limit:
        return list(x), list(y)
    bounds = [len(x) * k // limit for k in range(limit + 1)]
    runs = list(itertools.pairwise(bounds))
    return (
        [math.fsum(x[a:b]) / (b - a) for a, b in runs],
        [sum(y[a:b]) / (b - a) for a, b in runs],
    )


def line_chart(
    curves: Sequence[Curve],
    *,
    x_label: str,
    describes: str,
    zero: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    height: float = 200,
) -> Html:
    """The curves over one x axis; a legend stands above when several are named.

    zero: the y axis includes 0, with a line there. marks: dashed vertical lines with their text.
    A few values far above the rest do not flatten the others: they leave through the top.
    """
    named = [curve for curve in curves if curve.name]
    points = [point for curve in curves for point in curve.bars()]
    top = 26.0 if len(named) > 1 else 12.0
    if not points:
        return svg([label(6, 20, "nothing to draw yet")], height=40, describes=describes)
    low, high = _range(points, zero=zero)
    ticks = nice_ticks(low, high, 4)
    texts = tick_texts(ticks)
    left = 12.0 + 6.3 * max(map(len, texts))
    right, bottom = CHART_WIDTH - 10.0, height - _BOTTOM
    first, last = min(x for x, _, _ in points), max(x for x, _, _ in points)
    if first == last:
        first, last = first - 0.5, last + 0.5

    def at_x(value: float) -> float:
        return left + (right - left) * (value - first) / (last - first)

    def at_y(value: float) -> float:
        clipped = min(max(value, low), high)
        return bottom - (bottom - top) * (clipped - low) / (high - low)

    parts: list[Html] = list(_legend(named, left)) if len(named) > 1 else []
    for tick, text in zip(ticks, texts, strict=True):
        parts.append(element("path", d=f"M{left:.1f} {at_y(tick):.1f}H{right:.1f}", class_="axis"))
        parts.append(label(left - 5, at_y(tick) + 4, text, anchor="end"))
    for k, (place, name) in enumerate(m for m in sorted(marks) if first <= m[0] <= last):
        # Neighbours' texts stand on different lines.
        parts += _mark(at_x(place), name, top, bottom, line=k % 3)
    for curve in curves:
        parts += _curve(curve, at_x, at_y, high)
    x_ticks = nice_ticks(first, last, 4)
    if all(float(x).is_integer() for x, _, _ in points):
        # There is no step 2.5.
        x_ticks = [t for t in x_ticks if t.is_integer()]
    for tick in x_ticks:
        x = at_x(tick)
        anchor = "end" if x > right - 14 else "middle"
        parts.append(label(x, bottom + 15, number(tick), anchor=anchor))
    parts.append(label((left + right) / 2, height - 4, x_label, anchor="middle"))
    return svg(parts, height=height, describes=describes)


def _range(points: Sequence[tuple[float, float, float]], *, zero: bool) -> tuple[float, float]:
    lows = [y - half for _, y, half in points]
    highs = sorted(y + half for _, y, half in points)
    low, high = min(lows), highs[-1]
    usual = highs[int(0.97 * (len(highs) - 1))]
    if len(highs) >= 30 and high - low > 3 * (usual - low) > 0:
        high = low + 1.5 * (usual - low)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        # All the same: a band around it, so that the line does not lie on the frame.
        return low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    margin = 0.04 * (high - low)
    return low - (0.0 if zero and low == 0 else margin), high + margin


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """The ticks with as many digits as tell neighbours apart."""
    if len(ticks) < 2:
        return [number(tick) for tick in ticks]
    step = min(b - a for a, b in itertools.pairwise(ticks))
    largest = max(map(abs, ticks))
    if largest >= 1e7 or largest < 1e-3:
        digits = max(0, math.floor(math.log10(largest)) - _exponent(step))
        return ["0" if tick == 0 else f"{tick:.{digits}e}".replace("e-0", "e-") for tick in ticks]
    digits = max(0, -_exponent(step))
    return [f"{tick:,.{digits}f}" for tick in ticks]


def _exponent(step: float) -> int:
    """The power of ten of a step's last digit: 0.025 gives -3, 20 gives 1."""
    power = math.floor(math.log10(step) + 1e-9)
    return power if abs(step / 10.0**power - round(step / 10.0**power)) < 1e-6 else power - 1


def _legend(curves: Sequence[Curve], left: float) -> Iterator[Html]:
    x = left
    for curve in curves:
        yield element("path", d=f"M{x:.1f} 9h14", class_=f"line-{curve.style}")
        yield label(x + 18, 13, curve.name)
        x += 30 + 6.2 * len(curve.name)


def _mark(x: float, name: str, top: float, bottom: float, *, line: int) -> list[Html]:
    parts = [element("path", d=f"M{x:.1f} {top}V{bottom}", class_="mark")]
    if name:
        anchor, shift = ("end", -4) if x > CHART_WIDTH / 2 else ("start", 4)
        parts.append(
            label(x + shift, top + 9 + 12 * line, name, anchor=anchor, class_="mark-label")
        )
    return parts


def _curve(curve: Curve, at_x: _Place, at_y: _Place, high: float) -> list[Html]:
    if curve.error is not None:
        return _error_bars(curve, at_x, at_y)
    drawn = [p for run in _runs(*thin(curve.x, curve.y)) for p in _below(run, high)]
    if len(drawn) == 1:
        return [_dot(at_x(drawn[0][0]), at_y(drawn[0][1]), curve.style)]
    path = [f"{'L' if joined else 'M'}{at_x(x):.1f} {at_y(y):.1f}" for x, y, joined in drawn]
    style = f"line-{curve.style}" + (" faint" if curve.faint else "")
    return [element("path", d="".join(path), class_=style)]


def _runs(x: Sequence[float], y: Sequence[float]) -> Iterator[list[tuple[float, float]]]:
    """The points between those that are not finite."""
    run: list[tuple[float, float]] = []
    for a, b in zip(x, y, strict=True):
        if math.isfinite(a) and math.isfinite(b):
            run.append((a, b))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _below(run: list[tuple[float, float]], high: float) -> list[tuple[float, float, bool]]:
    """(x, y, joined to the one before) of the part of a line that lies at or below `high`."""
    found: list[tuple[float, float, bool]] = []
    if run[0][1] <= high:
        found.append((*run[0], False))
    for (x0, y0), (x1, y1) in itertools.pairwise(run):
        if (y0 <= high) != (y1 <= high):
            crossing = x0 + (x1 - x0) * (high - y0) / (y1 - y0)
            found.append((crossing, high, y0 <= high))
        if y1 <= high:
            found.append((x1, y1, True))
    return found


def _error_bars(curve: Curve, at_x: _Place, at_y: _Place) -> list[Html]:
    points = list(curve.bars())

    def place(value: float) -> float:
        # Two curves measured at the same steps would hide each other's bars.
        return at_x(value) + 3.0 * (curve.style - 1)

    line = "".join(
        f"{'L' if k else 'M'}{place(x):.1f} {at_y(y):.1f}" for k, (x, y, _) in enumerate(points)
    )
    parts = [element("path", d=line, class_=f"line-{curve.style} faint")]
    for x, y, half in points:
        said = f"step {number(x)}: {y:+.5g}" + (f" ± {half:.2g}" if half else "")
        if half:
            path = f"M{place(x):.1f} {at_y(y - half):.1f}V{at_y(y + half):.1f}"
            parts.append(element("path", d=path, class_=f"line-{curve.style}"))
        parts.append(_dot(place(x), at_y(y), curve.style, said))
    return parts


def _dot(x: float, y: float, style: int, said: str = "") -> Html:
    title = (element("title", said),) if said else ()
    return element("circle", *title, cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.6", class_=f"fill-{style}")
