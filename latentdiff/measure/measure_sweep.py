"""A grid over settings, and in each cell how good the pictures are: the same prompts and seeds.

Of each cell: calls of the network, Fréchet and kernel distance from the world's scenes, what the
judge sees, seconds, and how far its pictures are from those of a reference cell.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentdiff.errors import UserError
from latentdiff.evaluation.distances import psnr
from latentdiff.evaluation.intervals import Proportion, wilson
from latentdiff.evaluation.protocol import Item
from latentdiff.evaluation.sets import frechet
from latentdiff.evaluation.sets.frechet import Moments
from latentdiff.evaluation.sets.kernel_distance import kid
from latentdiff.evaluation.sets.resampling import Interval
from latentdiff.measure.drawing import Drawing
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.picture_sets import (
    DrawnPictures,
    PictureSet,
    Readers,
    Readings,
    gather,
)
from latentdiff.measure.results.plots import Chart, Line
from latentdiff.measure.results.report import Report, Table, interval, share
from latentdiff.measure.results.store import Work
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.sweep import Axis, parse_axis, with_value
from latentdiff.sheet import axes_sheet

FEWEST = 8
WITH = "with"
"""An axis of whole settings: with=eta=0|eta=0.5|scheduler=ddim-sigma-hat, joined by +."""
_SHEET_PICTURES = 3


@dataclass(frozen=True, kw_only=True)
class Cell:
    """values: by axis, as written; count: of pictures; request: without prompt and seed."""

    values: dict[str, str]
    request: Request
    count: int


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """readings: of the cell's pictures. psnr (dB), likeness (cosine of features): of each of its
    pictures with the reference cell's; difference: of its Fréchet distance from that cell's, over
    the pictures that both have, paired. None for that cell, and where there is none. common: the
    Fréchet distance of as many pictures as the smallest cell has, which charts compare."""

    cell: Cell
    readings: Readings
    frechet: Interval
    kid: Interval
    subject: Proportion | None
    setting: Proportion | None
    psnr: NDArray[np.float64] | None
    likeness: NDArray[np.float64] | None
    difference: Interval | None
    common: Interval

    @property
    def calls(self) -> float:
        """Of the network, for one picture."""
        return float(self.readings.calls.mean())


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """One or two axes, as `parse_axis` reads them."""
    axes = tuple(map(parse_axis, texts))
    if not 1 <= len(axes) <= 2 or len({axis.name for axis in axes}) < len(axes):
        raise UserError(f"{len(axes)} sweeps were given; expected one or two, of different names")
    return axes


def make_cells(
    base: Request,
    axes: Sequence[Axis],
    model: MeasuredModel,
    count: int,
    most_calls: int | None = None,
) -> list[Cell]:
    """Every combination, the first axis running fastest.

    most_calls: of the network in a cell; where `count` pictures need more, fewer are drawn, but
    FEWEST at least.
    """
    cells = []
    for values in itertools.product(*(axis.values for axis in reversed(axes))):
        request = base
        for axis, value in zip(reversed(axes), values, strict=True):
            request = _changed(request, axis, value)
        number = count
        if most_calls is not None:
            probe = DrawnPictures(model=model, items=(), drawing=Drawing(request=request))
            number = max(min(FEWEST, count), min(count, most_calls // probe.cost()))
        named = zip((axis.name for axis in axes), values[::-1], strict=True)
        cells.append(Cell(values=dict(named), request=request, count=number))
    return cells


def _changed(request: Request, axis: Axis, value: str) -> Request:
    if axis.name != WITH:
        return with_value(request, axis, value)
    for part in value.split("+"):
        if part.strip() in ("", "nothing"):
            continue
        one = parse_axis(part)
        request = with_value(request, one, one.values[0])
    return request


def measure_sweep(
    model: MeasuredModel,
    items: Sequence[Item],
    cells: Sequence[Cell],
    reference: PictureSet,
    readers: Readers,
    work: Work,
    *,
    batch_size: int = 16,
    reference_cell: Mapping[str, str] | None = None,
) -> list[CellResult]:
    """Draw and measure every cell; [] for one share of several.

    reference_cell: axis → value; a cell is held against the one that has these values, and its own
    in all other axes. Raises UserError where an axis of that name is not swept.
    """
    sets: list[PictureSet] = [
        DrawnPictures(
            model=model,
            items=items[: cell.count],
            drawing=Drawing(request=cell.request, batch_size=batch_size),
            name=", ".join(cell.values.values()),
        )
        for cell in cells
    ]
    gathered = gather(work, [reference, *sets], readers)
    if not gathered:
        return []
    scenes, *drawn = gathered
    fixed, least = Moments.of(scenes.features), min(map(len, drawn))
    by_values = {_place(cell.values): r for cell, r in zip(cells, drawn, strict=True)}
    results = []
    for cell, readings in zip(cells, drawn, strict=True):
        aim = _aim(cell, reference_cell)
        other = None if aim is None else by_values.get(_place(aim))
        beside = None if other is None or other is readings else _beside(readings, other, fixed)
        results.append(
            CellResult(
                cell=cell,
                readings=readings,
                frechet=frechet.frechet(
                    readings.features, fixed, groups=min(20, len(readings), len(scenes))
                ),
                kid=kid(
                    readings.features,
                    scenes.features,
                    groups=min(20, len(readings), len(scenes)),
                ),
                subject=_right(readings, "subject"),
                setting=_right(readings, "setting"),
                psnr=None if beside is None else beside[0],
                likeness=None if beside is None else beside[1],
                difference=None if beside is None else beside[2],
                common=frechet.frechet(readings.features[:least], fixed, groups=min(20, least)),
            )
        )
    return results


def _aim(cell: Cell, wanted: Mapping[str, str] | None) -> dict[str, str] | None:
    """The values of the cell that this one is held against."""
    for name in wanted or {}:
        if name not in cell.values:
            raise UserError(
                f"the reference names {name}, which is not swept: {', '.join(cell.values)}"
            )
    return {**cell.values, **wanted} if wanted else None


def _place(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(values.values())


def _beside(
    one: Readings, other: Readings, fixed: Moments
) -> tuple[NDArray[np.float64], NDArray[np.float64], Interval]:
    count = min(len(one), len(other))
    features = [r.features[:count] for r in (one, other)]
    difference = frechet.paired_difference(features[0], features[1], fixed, groups=min(20, count))
    pairs = zip(one.pictures(count), other.pictures(count), strict=True)
    decibels = [float(psnr(a[None], b[None])[0]) for a, b in pairs]
    a, b = (r.features[:count].astype(np.float64) for r in (one, other))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(decibels), (a * b).sum(axis=1) / norms, difference


def _right(readings: Readings, name: str) -> Proportion | None:
    if name not in readings.arrays:
        return None
    return wilson(int(readings.arrays[name].sum()), len(readings))


def sweep_report(
    model: MeasuredModel,
    axes: Sequence[Axis],
    results: Sequence[CellResult],
    *,
    reference: str,
    features: str,
    scenes: int,
) -> Report:
    """A row a cell, a chart a measure, and the first pictures of all cells."""
    judged = all(r.subject is not None for r in results)
    beside = any(r.psnr is not None for r in results)
    header = [*(axis.name for axis in axes), "n", "calls", "FD", "KID × 1000"]
    header += ["subject %", "setting %"] if judged else []
    header += ["FD − reference", "PSNR dB", "likeness"] if beside else []
    rows = [_row(r, judged, beside) for r in results]
    counts = sorted({len(r.readings) for r in results})
    pictures = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} … {counts[-1]}"
    return Report(
        title=f"Sweep of {', '.join(axis.name for axis in axes)}: {model.name}",
        lead=f"{model.name}, {pictures} pictures a cell, the same prompts and seeds in all; "
        f"distances from {scenes} {reference} by {features}, 95 % intervals; besides what is "
        f"swept: {_settings(results)}",
        tables=[Table(title="Cells", header=header, rows=rows)],
        charts=_charts(axes, results, judged, beside),
        sheets=_sheets(axes, results),
        numbers={
            "axes": [{"name": axis.name, "values": axis.values} for axis in axes],
            "cells": [_numbers(r) for r in results],
            "features": features,
            "reference": {"name": reference, "pictures": scenes},
        },
        notes=(
            "FD is too large by about c/n: compare cells of equal n. KID has no such bias. Calls "
            "count both halves of guidance. FD − reference is paired, over the pictures that both "
            "cells have: what prompts and seeds have in common drops out of its interval. PSNR and "
            "likeness (cosine of features) are means over pictures with those of the reference "
            "cell, from the same seeds.",
        ),
    )


def _settings(results: Sequence[CellResult]) -> str:
    """What all cells have in common, and a bare request has not."""
    requests, bare = [r.cell.request for r in results], Request(prompt="", prompt_syntax="plain")
    shared = {}
    for field in dataclasses.fields(Request):
        values = {repr(getattr(request, field.name)) for request in requests}
        if len(values) == 1 and values != {repr(getattr(bare, field.name))}:
            shared[field.name] = getattr(requests[0], field.name)
    return ", ".join(f"{name} {value}" for name, value in shared.items()) or "nothing"


def _row(r: CellResult, judged: bool, beside: bool) -> list[str]:
    cells = [
        *r.cell.values.values(),
        str(len(r.readings)),
        f"{r.calls:.0f}",
        interval(r.frechet, 2),
    ]
    cells.append(f"{1e3 * r.kid.value:.2f} [{1e3 * r.kid.low:.2f}, {1e3 * r.kid.high:.2f}]")
    if judged:
        cells += [share(p) for p in (r.subject, r.setting) if p is not None]
    if beside:
        cells += ["–"] * 3 if r.psnr is None or r.likeness is None or r.difference is None else [
            f"{r.difference.value:+.2f} [{r.difference.low:+.2f}, {r.difference.high:+.2f}]",
            f"{r.psnr.mean():.2f}",
            f"{r.likeness.mean():.3f}",
        ]  # fmt: skip
    return cells


def _charts(
    axes: Sequence[Axis], results: Sequence[CellResult], judged: bool, beside: bool
) -> list[Chart]:
    def shares(name: str) -> Any:
        def get(r: CellResult) -> tuple[float, float, float]:
            found = getattr(r, name)
            return 100 * found.value, 100 * found.low, 100 * found.high

        return get

    def distance(name: str, scale: float) -> Any:
        def get(r: CellResult) -> tuple[float, float, float]:
            found = getattr(r, name)
            return scale * found.value, scale * found.low, scale * found.high

        return get

    def apart(r: CellResult) -> tuple[float, float, float]:
        if r.psnr is None:
            return math.nan, math.nan, math.nan
        mean = float(r.psnr.mean())
        half = 1.96 * float(r.psnr.std(ddof=1)) / math.sqrt(len(r.psnr)) if len(r.psnr) > 1 else 0
        return mean, mean - half, mean + half

    def difference(r: CellResult) -> tuple[float, float, float]:
        found = r.difference
        return (math.nan,) * 3 if found is None else (found.value, found.low, found.high)

    wanted = [
        ("frechet", _label(results), distance("common", 1.0)),
        ("kid", "KID × 1000", distance("kid", 1e3)),
    ]
    if judged:
        wanted += [
            ("subject", "subjects named right, %", shares("subject")),
            ("setting", "settings named right, %", shares("setting")),
        ]
    if beside:
        wanted.append(("difference", "FD − reference", difference))
        wanted.append(("psnr", "PSNR to the reference cell, dB", apart))
    charts = [_chart(axes, results, name, label, get) for name, label, get in wanted]
    if len({round(r.calls) for r in results}) > 1:
        charts.append(_over_calls(axes, results))
    return charts


def _chart(
    axes: Sequence[Axis], results: Sequence[CellResult], name: str, label: str, get: Any
) -> Chart:
    first = axes[0]
    numbers = _numeric(first.values)
    lines = []
    for other in axes[1].values if len(axes) == 2 else ("",):
        of = [r for r in results if len(axes) == 1 or r.cell.values[axes[1].name] == other]
        x = numbers or list(range(len(first.values)))
        y, low, high = zip(*(get(r) for r in of), strict=True)
        shown = f"{axes[1].name} {other}" if other and axes[1].name != WITH else other
        lines.append(Line(name=shown, x=x, y=y, low=low, high=high))
    return Chart(
        name=name,
        title=f"{label} over {first.name}",
        x_label=first.name,
        y_label=label,
        lines=lines,
        log_x=bool(numbers) and min(numbers) > 0 and max(numbers) >= 8 * min(numbers),
        names=None if numbers else first.values,
    )


def _label(results: Sequence[CellResult]) -> str:
    """What the axis of a Fréchet distance says where cells have different numbers of pictures."""
    counts = {len(r.readings) for r in results}
    return "Fréchet distance" + (f", first {min(counts)}" if len(counts) > 1 else "")


def _over_calls(axes: Sequence[Axis], results: Sequence[CellResult]) -> Chart:
    """Quality over cost: a line for each value of the axis that is not the number of steps."""
    kinds = [axis.name for axis in axes if axis.field != "num_inference_steps"]
    lines = []
    for name in dict.fromkeys(tuple(r.cell.values[k] for k in kinds) for r in results):
        of = [r for r in results if tuple(r.cell.values[k] for k in kinds) == name]
        of.sort(key=lambda r: r.calls)
        lines.append(
            Line(
                name=", ".join(name),
                x=[r.calls for r in of],
                y=[r.common.value for r in of],
                low=[r.common.low for r in of],
                high=[r.common.high for r in of],
            )
        )
    return Chart(
        name="frechet-over-calls",
        title="Fréchet distance over calls of the network",
        x_label="calls of the network for a picture",
        y_label=_label(results),
        log_x=True,
        lines=lines,
    )


def _numeric(values: Sequence[str]) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError:
        return []


def _sheets(axes: Sequence[Axis], results: Sequence[CellResult]) -> dict[str, Image.Image]:
    shown = [list(r.readings.pictures(_SHEET_PICTURES)) for r in results]
    count = min(map(len, shown))
    if len(axes) == 1:
        rows = [f"picture {n + 1}" for n in range(count)]
        pictures = [of_cell[n] for n in range(count) for of_cell in shown]
        return {"pictures": axes_sheet(pictures, axes[0].labels(), rows)}
    columns, rows = axes[0].labels(), axes[1].labels()
    return {
        f"pictures-{n + 1}": axes_sheet([of_cell[n] for of_cell in shown], columns, rows)
        for n in range(count)
    }


def _numbers(r: CellResult) -> dict[str, Any]:
    return {
        **r.cell.values,
        "request": r.cell.request.to_json(),
        "pictures": len(r.readings),
        "calls": r.calls,
        "seconds_a_picture": float(r.readings.seconds.mean()),
        "frechet": r.frechet.to_json(),
        "kid": r.kid.to_json(),
        "subject": None if r.subject is None else r.subject.to_json(),
        "setting": None if r.setting is None else r.setting.to_json(),
        "difference": None if r.difference is None else r.difference.to_json(),
        "psnr": None if r.psnr is None else float(r.psnr.mean()),
        "likeness": None if r.likeness is None else float(r.likeness.mean()),
    }
