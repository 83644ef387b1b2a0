"""`latentdiff report RUN`: write a training run's report.html anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from latentdiff import config as configs


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which run."""

    run: tyro.conf.Positional[Path]
    """The run's folder: --run-dir of the training, by default runs/<task>."""


def main(argv: Sequence[str]) -> int:
    """Run `latentdiff report` and return its exit code."""
    config = configs.parse(
        ReportConfig,
        argv,
        prog="latentdiff report",
        description="Write RUN/report.html from the run's files: curves with error bars, samples "
        "over time, data, settings, on one page that needs no network. Every training run writes "
        "it by itself; this makes it anew, also while the run goes on.",
    )
    from latentdiff.training.record.run_report import write_report

    print(f"report: {write_report(config.run)}")
    return 0
