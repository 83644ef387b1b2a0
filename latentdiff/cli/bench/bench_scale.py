"""`latentdiff bench scale`: start-up, memory and reading rate against the rows of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from latentdiff import config
from latentdiff.cli.bench import common
from latentdiff.errors import UserError

PROG = "latentdiff bench scale"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How large the caches are, and who reads them."""

    rows: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """Rows of the caches, one after another; a million takes about 3 GB of disk for a while."""
    processes: int = 2
    """Processes that read at once, after one alone."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for scale.json and scale.html, with the plots."""

    def __post_init__(self) -> None:
        if not self.rows or min(self.rows) < 1 or self.processes < 1:
            raise UserError("rows and processes must be at least 1")


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Time opening and reading caches of made-up rows."
    )
    from latentdiff.bench import scale
    from latentdiff.bench.report import Report

    race, plots = scale.scaling(options.rows, processes=options.processes, say=common.say)
    common.publish(Report(benchmark="scale", races=[race], plots=plots), options.output)
    return 0
