"""What the measurements that keep their parts share: folder, processes, writing the report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from latentdiff import config
from latentdiff.errors import UserError
from latentdiff.progress import Progress

if TYPE_CHECKING:
    from latentdiff.measure.measured_model import MeasuredModel
    from latentdiff.measure.results.report import Report
    from latentdiff.measure.results.store import Work


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """Where results go, and who makes them."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for page.html, numbers.json, tables.md, plots and sheets, and the parts that a
    measurement goes on from when it is started again; by default outputs/MEASUREMENT."""
    parts: Path | None = None
    """Folder of the parts, where several measurements share what they have in common; by default
    in --output."""
    processes: int = 1
    """Share the work among so many processes on this machine."""
    shard: str | None = None
    """Make only the K-th of N shares of the parts (K/N), and no report: for several machines on
    one folder. The same command without it then makes the report."""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise UserError(f"processes is {self.processes}, expected at least 1")

    def folder(self, measurement: str) -> Path:
        """Where results go."""
        return (self.output or Path("outputs") / measurement).expanduser()


def work_of(
    options: ResultOptions, measurement: str, argv: Sequence[str], verb: str = "network calls"
) -> Work:
    """This process's work: all of it, once the shares of `processes` others are made.

    verb: what its progress counts.
    """
    from latentdiff.measure.results.store import ResultStore, Share, Work

    share = Share() if options.shard is None else Share.parse(options.shard)
    store = ResultStore((options.parts or options.folder(measurement)).expanduser())
    if options.processes > 1 and options.shard is None:
        _share_out(options.processes, measurement, argv)
    return Work(store=store, share=share, progress=Progress(verb, patience=2.0))


def _share_out(count: int, measurement: str, argv: Sequence[str]) -> None:
    """Run the command once for each share, at the same time; UserError where one fails."""
    from latentdiff.devices import cores

    threads = str(max(1, cores() // count))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "latentdiff", "evaluate", measurement, *argv]
    children = [
        subprocess.Popen(
            [*command, "--shard", f"{k}/{count}"],
            env=environment,
            stderr=None if k == 1 else subprocess.PIPE,
        )
        for k in range(1, count + 1)
    ]
    try:
        for k, child in enumerate(children, 1):
            _, said = child.communicate()
            if child.returncode:
                last = (said or b"").decode("utf-8", "replace").strip().splitlines()
                raise UserError(
                    f"process {k} of {count} ended with exit code {child.returncode}"
                    + (f" ({last[-1]})" if last else "")
                    + "; what was made is kept: start the command again to go on"
                )
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
                child.wait()


def finish(
    report: Report,
    options: Any,
    results: ResultOptions,
    measurement: str,
    models: Sequence[MeasuredModel],
) -> int:
    """Print the tables, write everything; returns the exit code."""
    from latentdiff.measure.results import plots
    from latentdiff.measure.results.report import provenance, write

    print(report.text())
    folder = results.folder(measurement)
    facts = provenance(measurement, models, config.to_dict(options))
    page, numbers, *_ = write(report, folder, facts)
    print(f"\npage: {page}\nnumbers: {numbers}")
    if report.charts and not plots.there():
        print(f"note: without matplotlib there are no plots; {plots.INSTALL}", file=sys.stderr)
    return 0
