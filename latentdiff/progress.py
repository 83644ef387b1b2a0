"""How far a long command is, on standard error: nothing is silent for more than a few seconds.

Whoever does something long says what with `stage`, and how far it has come with `note`. Where
nothing at all was written for five seconds, the heartbeat writes that, with how long it has taken:
one line for everything that a command may be busy with, in its own code or in a library's.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from latentdiff import console

SILENCE = 4.5
"""Seconds without a word after which the heartbeat speaks, so that five are never silent."""
SWITCH = "LATENTDIFF_HEARTBEAT"
"""Environment variable: 0 turns the heartbeat off."""

_stages: list[list[Any]] = []  # [text, when it began], the innermost last


@contextmanager
def stage(text: str) -> Iterator[None]:
    """What is done while the block runs: "reading the data"; "" while it waits to be asked."""
    entry = [text, time.monotonic()]
    _stages.append(entry)
    try:
        yield
    finally:
        _stages[:] = [other for other in _stages if other is not entry]


def note(text: str) -> None:
    """How far the innermost stage has come: its text, timed from now on, until the next note."""
    if _stages:
        _stages[-1][:] = [text, time.monotonic()]


class Heartbeat:
    """Says what is being done where nothing was written for `SILENCE` seconds.

    now: the time; written: when a word was last written; write: writes a text that the next word
    overwrites on a terminal. `beat` is called by a thread, and by tests.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        written: Callable[[], float] = lambda: console.written_at,
        write: Callable[[str], None] = console.write_passing,
    ) -> None:
        self._now, self._written, self._write = now, written, write
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def beat(self) -> None:
        """Write a line if it is time to."""
        now = self._now()
        if now - self._written() < SILENCE or not _stages or not _stages[-1][0]:
            return
        text, began = _stages[-1]
        self._write(f"{text} … {now - began:.0f} s")

    def __enter__(self) -> Heartbeat:
        on = os.environ.get(SWITCH) != "0" and os.environ.get("RANK", "0") == "0"
        if on and isinstance(sys.stderr, console.Console):
            self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.25):
            self.beat()


class Progress:
    """`progress(done, total)`: a line rewritten on a terminal, elsewhere one every `seconds`.

    patience: what is over within so many seconds is not spoken of at all.
    """

    def __init__(self, verb: str, seconds: float = SILENCE, *, patience: float = 0.0) -> None:
        self.verb, self.seconds, self.patience = verb, seconds, patience
        self._begun = self._said = time.monotonic()
        self._ended = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        note(f"{self.verb} {done:,} of {total:,}")
        if now - self._begun < self.patience:
            return
        if done >= total:
            if self._ended:  # whoever counts may come to the end twice
                return
            self._ended = True
        live = sys.stderr.isatty()
        if done < total and now - self._said < (0.2 if live else self.seconds):
            return
        self._said = now
        rate = done / max(1e-9, now - self._begun)
        end = "\r" if live and done < total else "\n"
        left = f", {(total - done) / rate:,.0f} s left" if done < total and rate else ""
        rest = "  " if live else ""  # of a longer line that is written over
        print(
            f"{self.verb} {done:,} of {total:,}, {rate:,.1f}/s{left}{rest}",
            end=end,
            file=sys.stderr,
            flush=True,
        )
