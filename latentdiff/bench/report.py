"""What a benchmark says: a table for the terminal, JSON, and a page with its plot."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from latentdiff.bench.race import Outcome
from latentdiff.evaluation.result_table import table
from latentdiff.html import charts, page
from latentdiff.html.charts import Curve
from latentdiff.training.record import environment

MEBI = 2**20


@dataclass(frozen=True, kw_only=True)
class Race:
    """One race: its outcomes, against the reference, the entrant named `base`; "" is for what is no
    race, and stands for itself.

    work: what a turn does, in words. notes: lines under the table. extra: columns of its own, title
    -> (name of the entrant -> text).
    """

    title: str
    work: str
    outcomes: Sequence[Outcome]
    base: str
    notes: Sequence[str] = ()
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def reference(self) -> Outcome | None:
        """The base's outcome, None when it could not run."""
        found = [one for one in self.outcomes if one.name == self.base and not one.trouble]
        return found[0] if found else None

    def header(self) -> list[str]:
        """The columns' titles."""
        against = [f"× {self.base}", "× by CPU"] if self.base else []
        return ["", "seconds", "CPU-seconds", *against, "peak MiB", *self.extra]

    def rows(self, *, exact: bool) -> list[list[str]]:
        """The columns of the entrants that are exact, or of those that are not."""
        found = []
        for one in self.outcomes:
            if one.trouble or one.exact is not exact:
                continue
            base = self.reference
            against = ["", ""] if self.base else []
            if base:
                against = [one.faster_than(base, cpu=cpu).shown() for cpu in (False, True)]
            found.append(
                [
                    one.name,
                    one.seconds.shown(),
                    one.cpu_seconds.shown(),
                    *against,
                    f"{one.peak_bytes / MEBI:,.0f}",
                    *(column.get(one.name, "") for column in self.extra.values()),
                ]
            )
        return found

    def troubles(self) -> list[str]:
        """A line for each entrant that could not run."""
        return [f"{one.name} did not run: {one.trouble}" for one in self.outcomes if one.trouble]

    def text(self) -> str:
        """The tables of a terminal."""
        medians = ["medians, with intervals of 95 %"] if self.base else []
        parts = ["\n".join([f"{self.title}: {self.work}", *medians])]
        for exact, title in ((True, ""), (False, "approximate")):
            rows = self.rows(exact=exact)
            if rows:
                parts.append(table([title, *self.header()[1:]], rows))
        return "\n\n".join([*parts, *self.troubles(), *self.notes])

    def section(self) -> page.Html:
        """The same on a page."""
        tables = [
            page.table([title, *self.header()[1:]], rows)
            for exact, title in ((True, "exact"), (False, "approximate"))
            if (rows := self.rows(exact=exact))
        ]
        lines = [page.element("p", line) for line in (*self.troubles(), *self.notes)]
        return page.section(self.title, *tables, *lines, note=self.work)

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "title": self.title,
            "work": self.work,
            "base": self.base,
            "outcomes": [
                one.to_json() | {title: column.get(one.name, "") for title, column in extra}
                for extra in [list(self.extra.items())]
                for one in self.outcomes
            ],
            "notes": list(self.notes),
        }


def where(machine: Mapping[str, str]) -> page.Html:
    """The machine and its versions, on a page."""
    return page.section("Where", page.table(["", ""], [list(pair) for pair in machine.items()]))


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Curves over one axis."""

    title: str
    curves: Sequence[Curve]
    x_label: str

    def chart(self) -> page.Html:
        """As SVG."""
        return charts.line_chart(
            self.curves, x_label=self.x_label, describes=self.title, zero=True, height=260
        )

    def to_json(self) -> dict[str, Any]:
        """Its numbers."""
        return {
            "title": self.title,
            "x": self.x_label,
            "curves": [{"name": c.name, "x": list(c.x), "y": list(c.y)} for c in self.curves],
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """A benchmark's races and plots, with the machine and the day."""

    benchmark: str
    races: Sequence[Race]
    plots: Sequence[Plot] = ()
    machine: Mapping[str, str] = field(default_factory=environment.describe)
    command: str = field(default_factory=environment.command)
    day: str = field(default_factory=lambda: date.today().isoformat())

    def text(self) -> str:
        """For the terminal."""
        where = f"{self.machine.get('processor', platform.machine())}, {self.day}"
        return "\n\n".join([where, *(race.text() for race in self.races)])

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return {
            "benchmark": self.benchmark,
            "command": self.command,
            "day": self.day,
            "machine": dict(self.machine),
            "python": sys.version.split()[0],
            "races": [race.to_json() for race in self.races],
            "plots": [plot.to_json() for plot in self.plots],
        }

    def page(self) -> str:
        """A self-contained page."""
        drawn = [(plot.title, plot.chart()) for plot in self.plots]
        return page.page(
            f"bench {self.benchmark}",
            *(race.section() for race in self.races),
            *([page.section("Plots", page.charts(drawn))] if drawn else []),
            where(self.machine),
            lead=self.command,
            footer=self.day,
        )
