"""What a measurement found, as data: tables, charts, sheets and numbers, and how they are written.

`write` makes of it numbers.json, tables.md, a PNG for each chart and sheet, and page.html, which
holds all of them in one file.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from latentdiff import __version__, files
from latentdiff.evaluation.intervals import Proportion
from latentdiff.evaluation.result_table import table
from latentdiff.evaluation.sets.resampling import Interval
from latentdiff.html import page
from latentdiff.html.values import pairs
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.results import plots
from latentdiff.measure.results.plots import Chart
from latentdiff.training.record import environment

NUMBERS, TABLES, PAGE = "numbers.json", "tables.md", "page.html"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text, the first column's at the left, the others' at the right."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """For a terminal."""
        return f"{self.title}\n\n{table(self.header, self.rows)}"

    def markdown(self) -> str:
        """For a page of the documentation."""
        marks = [":--", *["--:"] * (len(self.header) - 1)]
        return "\n".join("| " + " | ".join(row) + " |" for row in (self.header, marks, *self.rows))


@dataclass(frozen=True, kw_only=True)
class Report:
    """title, lead: what was measured, on what. sheets: file name → picture. numbers: for JSON."""

    title: str
    lead: str
    tables: Sequence[Table]
    charts: Sequence[Chart] = ()
    sheets: Mapping[str, Image.Image] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def text(self) -> str:
        """What a terminal shows."""
        return "\n\n".join([self.lead, *(t.text() for t in self.tables), *self.notes])


def write(report: Report, folder: Path, provenance: Mapping[str, Any]) -> list[Path]:
    """Write all files into the folder; their paths, page first. Without matplotlib, no plots."""
    charts = {f"{chart.name}.png": plots.png(chart) for chart in report.charts if plots.there()}
    sheets = {f"{name}.png": _png(sheet) for name, sheet in report.sheets.items()}
    for name, data in (charts | sheets).items():
        files.write_bytes(folder / name, data)
    files.write_json(folder / NUMBERS, {**provenance, **report.numbers})
    blocks = [f"{t.title}:\n\n{t.markdown()}" for t in report.tables]
    files.write_text(folder / TABLES, "\n\n".join([report.lead, *blocks, *report.notes]) + "\n")
    files.write_text(folder / PAGE, _page(report, charts, sheets, provenance))
    written = [PAGE, NUMBERS, TABLES, *charts, *sheets]
    return [folder / name for name in written]


def provenance(measurement: str, models: Sequence[MeasuredModel], options: Any) -> dict[str, Any]:
    """What was measured by what: the command, its options, the weights, the machine, the date."""
    return {
        "measurement": measurement,
        "version": __version__,
        "command": environment.command(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "models": [
            {"name": m.name, "dtype": m.dtype_name, "hashes": dict(m.hashes), **_card(m)}
            for m in models
        ],
        "environment": environment.describe(),
        "options": options,
    }


def interval(value: Interval, digits: int = 3) -> str:
    """ "1.234 [1.100, 1.368]": a value with the ends of its interval."""
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def share(value: Proportion) -> str:
    """ "87.5 [77.2, 93.5]", in per cent."""
    return f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _card(model: MeasuredModel) -> dict[str, Any]:
    card = model.pipeline.bundle.card
    return {"card_version": card["version"]} if card and "version" in card else {}


def _png(image: Image.Image) -> bytes:
    held = io.BytesIO()
    image.save(held, format="PNG", optimize=True)
    return held.getvalue()


def _page(
    report: Report,
    charts: Mapping[str, bytes],
    sheets: Mapping[str, bytes],
    provenance: Mapping[str, Any],
) -> str:
    tables = [
        page.section(t.title, page.table(t.header, t.rows, numeric=range(1, len(t.header))))
        for t in report.tables
    ]
    titles = {f"{chart.name}.png": chart.title for chart in report.charts}
    drawn = [(titles[n], page.image(d, "image/png", alt=titles[n])) for n, d in charts.items()]
    sections: list[object] = list(tables)
    if drawn:
        sections.append(page.section("Plots", *(_figure(image, name) for name, image in drawn)))
    if sheets:
        shown = (
            _figure(page.image(d, "image/png", alt=n, class_="sheet"), n.removesuffix(".png"))
            for n, d in sheets.items()
        )
        sections.append(page.section("Pictures", *shown))
    if report.notes:
        sections.append(page.section("Notes", *(page.element("p", n) for n in report.notes)))
    facts = {
        "command": provenance["command"],
        "date": provenance["date"],
        **{f"model {m['name']}": _weights(m) for m in provenance["models"]},
        **provenance["environment"],
    }
    sections.append(page.section("Made by", pairs(facts)))
    return page.page(report.title, *sections, lead=report.lead)


def _figure(image: page.Html, caption: str) -> page.Html:
    return page.element(
        "figure", image, page.element("figcaption", caption, class_="note"), style="margin:1rem 0"
    )


def _weights(model: Mapping[str, Any]) -> str:
    hashes = ", ".join(f"{part} {digest[:12]}" for part, digest in model["hashes"].items())
    return f"{model['dtype']}; {hashes}"
