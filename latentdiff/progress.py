"""How far a long command is, on standard error."""

from __future__ import annotations

import sys
import time


class Progress:
    """`progress(done, total)`: a line rewritten on a terminal, elsewhere one every `seconds`.

    patience: what is over within so many seconds is not spoken of at all.
    """

    def __init__(self, verb: str, seconds: float = 20.0, *, patience: float = 0.0) -> None:
        self.verb, self.seconds, self.patience = verb, seconds, patience
        self._begun = self._said = time.monotonic()
        self._ended = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
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
