"""Several ways to do the same work, timed in turn: one round after another, all of them in each.

Every entrant lives in a process of its own, so that peak memory is its own, no library is patched
or warmed by another, and what cannot start is named and takes nothing with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentdiff.bench.runners import Answers, Commands, Runner, Turn
from latentdiff.bench.spread import Spread, spread


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A way to do the work.

    name: its row. maker: "package.module:function" that is called in the entrant's own process with
    `settings` (JSON values) and gives what does the work once: a function of the turn's number that
    returns facts fit for JSON, or None. exact: false for methods that give something else
    than the reference; they stand in rows of their own. threads: of the processor.
    """

    name: str
    maker: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True
    threads: int = 1
    python: str = sys.executable

    def start(self) -> Runner:
        """Start the process; RuntimeError with one line when it cannot do the work here."""
        return Answers(
            [self.python, "-m", "latentdiff.bench.worker", self.maker], self.settings, self.threads
        )


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that is run anew for every turn: cold starts. OUT in it is a fresh folder."""

    name: str
    command: Sequence[str]
    exact: bool = True
    threads: int = 1
    facts: Callable[[Path], Mapping[str, Any]] = lambda folder: {}
    """What the folder OUT says of a turn, read after it."""

    def start(self) -> Runner:
        """Nothing runs before the first turn."""
        return Commands(self.command, self.threads, self.facts)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an entrant. trouble: one line, for one that could not start or finish."""

    name: str
    exact: bool
    turns: Sequence[Turn] = ()
    ready_seconds: float = 0.0
    peak_bytes: int = 0
    trouble: str = ""

    @property
    def seconds(self) -> Spread:
        """Of a turn, on the wall."""
        return spread([turn.seconds for turn in self.turns])

    @property
    def cpu_seconds(self) -> Spread:
        """Of a turn, of processor; other programs hardly disturb it."""
        return spread([turn.cpu_seconds for turn in self.turns])

    def faster_than(self, other: Outcome, *, cpu: bool = False) -> Spread:
        """How many times as fast as another one that ran in the same rounds: of each round's ratio
        the median, so that what slows a whole round cancels."""
        mine, theirs = (
            [turn.cpu_seconds if cpu else turn.seconds for turn in one.turns]
            for one in (self, other)
        )
        return spread([b / max(a, 1e-9) for a, b in zip(mine, theirs, strict=True)])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        row: dict[str, Any] = {"name": self.name, "exact": self.exact}
        if self.trouble:
            return row | {"trouble": self.trouble}
        return row | {
            "seconds": self.seconds.to_json(),
            "cpu_seconds": self.cpu_seconds.to_json(),
            "ready_seconds": self.ready_seconds,
            "peak_bytes": self.peak_bytes,
            "turns": [
                {"seconds": t.seconds, "cpu_seconds": t.cpu_seconds, **t.facts} for t in self.turns
            ],
        }


def race(
    entrants: Sequence[Entrant | Command],
    *,
    repeats: int,
    warmups: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Time all entrants: `warmups` rounds that do not count, then `repeats` that do.

    In every other round they run in the opposite order. say: told what is being done.
    """
    runners: dict[int, Runner] = {}
    turns: dict[int, list[Turn]] = {k: [] for k in range(len(entrants))}
    trouble: dict[int, str] = {}
    peaks: dict[int, int] = {}
    ready: dict[int, float] = {}
    try:
        for k, entrant in enumerate(entrants):
            say(f"starting {entrant.name}")
            try:
                runners[k] = entrant.start()
                ready[k] = runners[k].ready_seconds
            except RuntimeError as error:
                trouble[k] = str(error)
        for number in range(-warmups, repeats):
            which = "warm-up" if number < 0 else f"round {number + 1} of {repeats}"
            for k in sorted(runners, reverse=bool(number % 2)):
                say(f"{which}: {entrants[k].name}")
                try:
                    turn = runners[k].turn(number)
                    peaks[k] = runners[k].peak_bytes
                except RuntimeError as error:
                    trouble[k] = str(error)
                    runners.pop(k).close()
                    continue
                if number >= 0:
                    turns[k].append(turn)
    finally:
        for runner in runners.values():
            runner.close()
    return [
        Outcome(
            name=entrant.name,
            exact=entrant.exact,
            turns=() if k in trouble else tuple(turns[k]),
            ready_seconds=ready.get(k, 0.0),
            peak_bytes=peaks.get(k, 0),
            trouble=trouble.get(k, ""),
        )
        for k, entrant in enumerate(entrants)
    ]
