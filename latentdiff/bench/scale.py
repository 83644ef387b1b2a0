"""`bench scale`: what a training waits for, and how fast it reads, as its cache grows."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from latentdiff.bench import made_up_cache
from latentdiff.bench.made_up_cache import READS
from latentdiff.bench.race import Outcome
from latentdiff.bench.report import Plot, Race
from latentdiff.bench.runners import Turn
from latentdiff.html.charts import Curve

Told = dict[str, float]


def measure(count: int, processes: int) -> list[Told]:
    """Fill a cache of `count` rows in a temporary folder, and have processes open and read it, one
    alone and then `processes` at once: what the first said, then what each of the others did."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "cache"
        made_up_cache.fill(folder, count)
        return [*_open(folder, count, 1), *(_open(folder, count, processes))]


def _open(folder: Path, count: int, processes: int) -> list[Told]:
    command = [sys.executable, "-m", "latentdiff.bench.made_up_cache", str(count), str(folder)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    said = [process.communicate()[0] for process in started]
    return [json.loads(text.splitlines()[-1]) for text in said]


def scaling(
    counts: Sequence[int],
    *,
    processes: int = 2,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Race, list[Plot]]:
    """A row for each count, and the curves over rows."""
    told: list[list[Told]] = []
    for count in counts:
        say(f"{count:,} rows")
        told.append(measure(count, processes))
    outcomes = [_outcome(count, found[0]) for count, found in zip(counts, told, strict=True)]
    alone = [found[0]["samples a second"] for found in told]
    together = [sum(one["samples a second"] for one in found[1:]) for found in told]
    names = [one.name for one in outcomes]
    race = Race(
        title="a cache that grows",
        work=f"opening a full cache as a training does, then reading {READS:,} rows in any order",
        outcomes=outcomes,
        base="",
        extra={
            "samples/s": {n: f"{rate:,.0f}" for n, rate in zip(names, alone, strict=True)},
            f"{processes} processes": {
                n: f"{rate:,.0f}" for n, rate in zip(names, together, strict=True)
            },
        },
        notes=[
            "seconds: until the first batch; values of a few bytes: this is what the bookkeeping "
            "costs, not the disk"
        ],
    )
    return race, _plots(counts, outcomes, alone, together, processes)


def _outcome(count: int, told: Told) -> Outcome:
    turn = Turn(seconds=told["seconds"], cpu_seconds=told["CPU seconds"])
    return Outcome(
        name=f"{count:,} rows", exact=True, turns=(turn,), peak_bytes=round(told["MB"] * 1e6)
    )


def _plots(
    counts: Sequence[int],
    outcomes: Sequence[Outcome],
    alone: Sequence[float],
    together: Sequence[float],
    processes: int,
) -> list[Plot]:
    x = [count / 1000 for count in counts]
    seconds = [one.seconds.value for one in outcomes]
    memory = [one.peak_bytes / 2**20 for one in outcomes]
    return [
        Plot(
            title="seconds until the first batch",
            curves=[Curve(x=x, y=seconds, name="one process")],
            x_label="thousand rows",
        ),
        Plot(
            title="peak memory, MiB",
            curves=[Curve(x=x, y=memory, name="one process")],
            x_label="thousand rows",
        ),
        Plot(
            title="samples read a second",
            curves=[
                Curve(x=x, y=alone, name="one process"),
                Curve(x=x, y=together, name=f"{processes} processes together", style=2),
            ],
            x_label="thousand rows",
        ),
    ]
