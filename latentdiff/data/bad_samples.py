"""What a run could not read: skipped, counted and named, until it is too much.

RUN/bad_samples.jsonl has one line a sample: {"id", "code", "reason"}. Processes and workers append
to the same file; a line is one write, and a sample that is met again is not written again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

from latentdiff.data.records import BadPicture
from latentdiff.errors import UserError

NAME = "bad_samples.jsonl"


class BadSamples:
    """The list of one run. `limit` is the share of `total` that may be bad, at least one sample."""

    def __init__(self, path: Path, *, total: int, limit: float) -> None:
        self.path, self.total, self.limit = path, total, limit
        self._known: set[str] = set()
        self._read = 0

    @property
    def allowed(self) -> int:
        """Bad samples that the run survives; none when the limit is 0."""
        return max(1, math.floor(self.limit * self.total)) if self.limit > 0 else 0

    def add(self, name: str, problem: BadPicture) -> None:
        """Write a sample down; UserError when there are now more of them than allowed."""
        self.add_all([(name, problem)])

    def add_all(self, problems: Iterable[tuple[str, BadPicture]]) -> None:
        """Write several down, all of them; then UserError when there are more than allowed."""
        last = ""
        for name, problem in problems:
            if name in self.names():
                continue
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = {"id": name, "code": problem.code, "reason": str(problem)}
            data = (json.dumps(line) + "\n").encode("ascii")
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
            last = f"{name}: {problem}"
        count = len(self.names())
        if last and count > self.allowed:
            raise UserError(
                f"{count:,} of {self.total:,} pictures cannot be used, more than "
                f"--bad-sample-limit {self.limit:g} allows ({self.allowed:,}); the last is "
                f"{last}. They are listed in {self.path}; `latentdiff data check` looks at "
                "everything at once"
            )

    def names(self) -> set[str]:
        """Ids of the samples written down so far, by any process."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return self._known
        whole = new[: new.rfind(b"\n") + 1]  # the rest is a line that another process is writing
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                self._known.add(str(json.loads(line)["id"]))
            except (ValueError, KeyError, TypeError):
                continue
        return self._known
