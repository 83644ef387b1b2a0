"""What was found on a device, on one page: checks first, then how fast it is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from latentdiff.bench.device.apart import NeedsCudaError
from latentdiff.bench.device.checks import CHECKS, Check
from latentdiff.bench.device.place import Place
from latentdiff.bench.report import Report, where
from latentdiff.html import page

State = Literal["holds", "FAILS", "needs CUDA"]
_CLASSES: dict[State, str] = {"holds": "good", "FAILS": "bad", "needs CUDA": "warn"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Of one check: what became of it, what it says, what it is about, and how long it took."""

    name: str
    state: State
    text: str
    about: str = ""
    seconds: float = 0.0

    def line(self) -> str:
        """For the terminal."""
        return f"{self.state:<10}  {self.name}: {self.text} ({self.seconds:.0f} s)"

    def cells(self) -> list[object]:
        """Cells of the page's table."""
        under = page.element("div", self.about, class_="note")
        return [
            page.join([page.element("b", self.name), under]),
            page.element("b", self.state, class_=_CLASSES[self.state], style="white-space:nowrap"),
            self.text,
            f"{self.seconds:.0f} s",
        ]


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
        state: State = "holds"
        try:
            text = check(place)
        except NeedsCudaError as error:
            state, text = "needs CUDA", str(error)
        except Exception as error:
            state, text = "FAILS", " ".join(str(error).split()) or type(error).__name__
        about = " ".join((check.__doc__ or "").replace("`", "").split())
        seconds = time.monotonic() - began
        found.append(Finding(name=name, state=state, text=text, about=about, seconds=seconds))
    return found


@dataclass(frozen=True, kw_only=True)
class DeviceReport(Report):
    """Findings, above the races. device: as it is called in the command; seconds: of all of it."""

    device: str = ""
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0

    @property
    def fails(self) -> list[str]:
        """The checks that do not hold."""
        return [finding.name for finding in self.findings if finding.state == "FAILS"]

    def counts(self) -> list[tuple[str, str]]:
        """What is to be known at the first glance."""
        states = Counter(finding.state for finding in self.findings)
        found = [(state, str(states[state])) for state in _CLASSES if self.findings]
        return [
            ("device", self.machine.get("GPU") or self.device),
            *found,
            ("minutes in all", f"{self.seconds / 60:.1f}"),
        ]

    def text(self) -> str:
        """For the terminal."""
        parts = [", ".join(f"{name}: {value}" for name, value in self.counts()), super().text()]
        if self.findings:
            parts.insert(0, "\n".join(finding.line() for finding in self.findings))
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        return super().to_json() | {
            "device": self.device,
            "seconds": round(self.seconds, 1),
            "findings": [vars(finding) for finding in self.findings],
        }

    def page(self) -> str:
        """A self-contained page."""
        checks: object = ""
        if self.findings:
            header = ["check", "", "found", "took"]
            rows = [finding.cells() for finding in self.findings]
            note = "each in processes of its own; training is that of a small random model"
            checks = page.section("Checks", page.table(header, rows, numeric=[3]), note=note)
        return page.page(
            "What works on this device, and how fast",
            page.facts(self.counts()),
            checks,
            *(race.section() for race in self.races),
            where(self.machine),
            lead=page.element("code", self.command),
            footer=f"latentdiff bench device, {self.day}",
        )
