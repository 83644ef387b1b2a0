"""`bench device`: every check of `device_checks`, and one page of what holds and what does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from latentdiff.bench.device_checks import CHECKS, Check, Place
from latentdiff.bench.report import Report
from latentdiff.evaluation.result_table import table
from latentdiff.html import page


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Of one check: whether it holds, what it says, and how long it took."""

    name: str
    holds: bool
    text: str
    seconds: float

    def row(self) -> list[str]:
        """Cells of a table."""
        return [self.name, "holds" if self.holds else "FAILS", self.text, f"{self.seconds:.0f} s"]


def check_all(
    place: Place,
    checks: Mapping[str, Check] = CHECKS,
    say: Callable[[str], None] = lambda line: None,
) -> list[Finding]:
    """Every check in turn; none stops the others."""
    found = []
    for name, check in checks.items():
        say(name)
        began = time.monotonic()
        try:
            holds, text = True, check(place)
        except Exception as error:
            holds, text = False, " ".join(str(error).split()) or type(error).__name__
        found.append(Finding(name=name, holds=holds, text=text, seconds=time.monotonic() - began))
    return found


HEADER = ["", "", "found", "took"]


@dataclass(frozen=True, kw_only=True)
class DeviceReport(Report):
    """Findings, above the races."""

    findings: tuple[Finding, ...] = ()

    def text(self) -> str:
        """For the terminal."""
        return f"{table(HEADER, [f.row() for f in self.findings])}\n\n{super().text()}"

    def to_json(self) -> dict[str, object]:
        """All numbers."""
        return super().to_json() | {"findings": [vars(finding) for finding in self.findings]}

    def page(self) -> str:
        """A self-contained page."""
        return page.page(
            "what works on this device, and how fast",
            page.section("Checks", page.table(HEADER, [f.row() for f in self.findings])),
            *(race.section() for race in self.races),
            page.section("Where", page.facts(self.machine.items())),
            lead=self.command,
            footer=self.day,
        )
