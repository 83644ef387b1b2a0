"""The house style of plots: one chart is one record, drawn by matplotlib where it is installed."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

COLOURS = ("#3465a4", "#ce5c00", "#4e9a06", "#75507b", "#c4a000", "#888a85", "#cc0000")
INK, RULE = "#2e3436", "#d9dcd8"
INSTALL = "pip install 'latentdiff[plots]'"


@dataclass(frozen=True, kw_only=True)
class Line:
    """y over x, with its interval where low and high are given; NaN interrupts it.

    reference: drawn as a thin dashed line, for what others are held against. points: only its
    points, not joined.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    reference: bool = False
    points: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over one axis. name: of its file, without ending. names: of the x values, where they
    are kinds and not numbers."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False
    names: Sequence[str] | None = None


def there() -> bool:
    """Whether plots can be drawn: matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def png(chart: Chart) -> bytes:
    """The chart as a PNG of 256 colours."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = dict(_STYLE)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        ax = figure.add_subplot()
        bands = len(chart.lines) <= 3  # more would hide each other
        for number, line in enumerate(chart.lines):
            _draw(ax, line, COLOURS[number % len(COLOURS)], bands)
        _axes(ax, chart)
        held = io.BytesIO()
        figure.savefig(held, dpi=130, format="png")
    small = io.BytesIO()
    Image.open(held).convert("RGB").quantize(256).save(small, format="PNG", optimize=True)
    return small.getvalue()


def _draw(ax: Any, line: Line, colour: str, bands: bool) -> None:
    if line.reference:
        ax.plot(line.x, line.y, "--", linewidth=1, color=INK, label=line.name, zorder=1)
        return
    style = "o" if line.points else "o-"
    ax.plot(line.x, line.y, style, color=colour, label=line.name, markersize=3.5)
    if line.low is not None and line.high is not None:
        if line.points or not bands:
            strong = 1.0 if line.points else 0.35
            ax.vlines(line.x, line.low, line.high, color=colour, linewidth=1.2, alpha=strong)
        else:
            ax.fill_between(line.x, line.low, line.high, color=colour, alpha=0.14, linewidth=0)


def _axes(ax: Any, chart: Chart) -> None:
    if chart.log_x:
        ax.set_xscale("log")
    values = sorted({x for line in chart.lines for x in line.x})
    if 1 < len(values) <= 8 and chart.names is None:
        ax.set_xticks(values, [f"{v:g}" for v in values])
        ax.minorticks_off()
    if chart.log_y:
        ax.set_yscale("log")
    if chart.names is not None:
        ax.set_xticks(range(len(chart.names)), chart.names)
        ax.set_xlim(-0.5, len(chart.names) - 0.5)
    ax.set_title(chart.title, loc="left", fontsize=10, color=INK)
    ax.set_xlabel(chart.x_label)
    ax.set_ylabel(chart.y_label)
    if any(line.name for line in chart.lines) and len(chart.lines) > 1:
        ax.legend(frameon=False, fontsize=8, ncols=1 + len(chart.lines) // 5)
    if not chart.log_y:
        lows = [y for line in chart.lines for y in (*line.y, *(line.low or ()))]
        spread = [y for y in lows if math.isfinite(y)]
        if spread and min(spread) >= 0 and min(spread) < 0.5 * max(spread):
            ax.set_ylim(bottom=0)


_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888a85",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": "#555753",
    "ytick.color": "#555753",
    "lines.linewidth": 1.5,
    "figure.facecolor": "white",
}
