"""What a sweep found, as a table, curves and sheets of pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.results.plots import Chart, Line
from latentdiff.measure.results.report import Report, Table, interval, share
from latentdiff.measure.sweeps.measure_sweep import WITH, CellResult
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.sweep import Axis
from latentdiff.sheet import axes_sheet

_SHEET_PICTURES = 3


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
