"""How far a long command is, on standard error."""

from __future__ import annotations

import sys
import time


class Progress:
    """`progress(done, total)`: a line rewritten on a terminal, elsewhere one every `seconds`."""

    def __init__(self, verb: str, seconds: float = 20.0) -> None:
        self.verb, self.seconds = verb, seconds
        self._begun = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        live = sys.stderr.isatty()
        if done < total and now - self._said < (0.2 if live else self.seconds):
            return
        self._said = now
        rate = done / max(1e-9, now - self._begun)
        end = "\r" if live and done < total else "\n"
        left = f", {(total - done) / rate:,.0f} s left" if done < total and rate else ""
        print(
            f"{self.verb} {done:,} of {total:,}, {rate:,.1f}/s{left}  ",
            end=end,
            file=sys.stderr,
            flush=True,
        )
