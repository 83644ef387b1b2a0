"""What a run could not read: skipped, counted and named, until it is too much.

RUN/bad_samples.jsonl has one line a sample: {"id", "code", "reason"}. Processes and workers append
to the same file; a line is one write, and a sample that is met again is not written again.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from latentdiff.data.records import BadPicture
from latentdiff.errors import UserError

NAME = "bad_samples.jsonl"


class BadSamples:
    """The list of one run. `limit` is the share of `total` that may be bad, at least one sample."""

    def __init__(self, path: Path, *, total: int, limit: float) -> None:
        self.path, self.total, self.limit = path, total, limit
        self._mine: set[str] = set()

    @property
    def allowed(self) -> int:
        """Bad samples that the run survives; none when the limit is 0."""
        return max(1, math.floor(self.limit * self.total)) if self.limit > 0 else 0

    def add(self, name: str, problem: BadPicture) -> None:
        """Write a sample down; UserError when there are now more of them than allowed."""
        if name in self._mine:
            return
        self._mine.add(name)
        known = self.names()
        if name not in known:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = {"id": name, "code": problem.code, "reason": str(problem)}
            data = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "replace")
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
            known.add(name)
        if len(known) > self.allowed:
            raise UserError(
                f"{len(known)} of {self.total:,} pictures cannot be used, more than "
                f"--bad-sample-limit {self.limit:g} allows ({self.allowed}); the last: {name}: "
                f"{problem}; all of them: {self.path}. `latentdiff data check` looks at everything "
                "at once"
            )

    def names(self) -> set[str]:
        """Ids of the samples written down so far, by any process."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return set()
        found = set()
        for line in lines:
            try:
                found.add(str(json.loads(line)["id"]))
            except (ValueError, KeyError, TypeError):
                continue  # a line that another process is writing
        return found
