"""What a drawing command is doing now, on a terminal: loading, encoding, steps, decoding."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from latentdiff import progress

if TYPE_CHECKING:
    from latentdiff.pipelines.walk.batch import PipelineStep


class Stages:
    """One line on standard error, rewritten in place. Where there is no terminal, a line of its own
    every `seconds` of a run of many pictures, and else nothing."""

    def __init__(self, count: int = 0, *, seconds: float = 60.0) -> None:
        self.count, self.seconds = count, seconds
        self.live = sys.stderr.isatty()
        self._written = 0
        self._began = self._first = self._told = time.monotonic()

    @contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """Show `text` while the block runs."""
        try:
            with progress.stage(text):  # first, or the name of what goes on around it would be lost
                self.show(f"{text} …")
                yield
        finally:
            self.clear()

    def step(self, step: PipelineStep) -> None:
        """Show the step that was done, the rate, and what follows."""
        done = step.index + 1
        first, last = step.places[0] + 1, step.places[-1] + 1
        which = f"picture {first}" if first == last else f"pictures {first} … {last}"
        of = f"{which} of {self.count}{self._left(step)}: " if self.count > 1 else ""
        if step.index == 0:
            self._began = time.monotonic()
            self._tell(f"{which} of {self.count}{self._left(step)}")
        if done == step.total:
            self.show(f"{of}decoding …")
            return
        rate = step.index / max(1e-9, time.monotonic() - self._began)
        left = f", {rate:.2f} steps/s, {(step.total - done) / rate:.0f} s left" if rate else ""
        self.show(f"{of}step {done} of {step.total}{left}")

    def _left(self, step: PipelineStep) -> str:
        """What remains of a run of many batches, by what it took so far; "" in the first."""
        before = step.places[0]
        if before == 0:
            if step.index == 0:
                self._first = time.monotonic()
            return ""
        seconds = (time.monotonic() - self._first) * (self.count - before) / before
        if seconds < 120:
            return f" ({seconds:.0f} s left)"
        hours, minutes = divmod(round(seconds / 60), 60)
        return f" ({f'{hours} h ' if hours else ''}{minutes} min left)"

    def _tell(self, text: str) -> None:
        """A line for a log."""
        now = time.monotonic()
        if not self.live and self.count > 1 and now - self._told >= self.seconds:
            self._told = now
            print(f"drawing {text}", file=sys.stderr, flush=True)

    def show(self, text: str) -> None:
        """Write the line, over whatever stands there; the heartbeat repeats it in long silence."""
        progress.note(text.removesuffix(" …"))
        if self.live:
            print(f"\r{text.ljust(self._written)}", end="", file=sys.stderr, flush=True)
            self._written = len(text)

    def clear(self) -> None:
        """Empty the line."""
        if self.live and self._written:
            print(f"\r{' ' * self._written}\r", end="", file=sys.stderr, flush=True)
            self._written = 0
