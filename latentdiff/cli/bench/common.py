"""What the benchmarks' commands share: how often, how many threads, and where numbers go."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from latentdiff import files
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.bench.report import Report


@dataclass(frozen=True, kw_only=True)
class RaceOptions:
    """How to measure."""

    repeats: int = 5
    """Rounds that count; every entrant does the work once in each."""
    warmups: int = 1
    """Rounds before them that do not count."""
    threads: int = 1
    """Of the processor, for each entrant."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for NAME.json and NAME.html, with the plots."""

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("warmups", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; expected at least {least}")


def say(line: str) -> None:
    """What is being measured, on standard error where that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r{line[:100].ljust(100)}", end="", file=sys.stderr, flush=True)


def publish(report: Report, folder: Path | None) -> None:
    """Print the tables; write the numbers and the page where a folder is given."""
    if sys.stderr.isatty():
        print(f"\r{' ' * 100}\r", end="", file=sys.stderr, flush=True)
    print(report.text())
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / f"{report.benchmark}.json", report.to_json())
    files.write_text(folder / f"{report.benchmark}.html", report.page())
    print(f"\nnumbers: {folder / report.benchmark}.json\npage: {folder / report.benchmark}.html")
