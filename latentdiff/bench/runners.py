"""The processes of a race: one that answers turn by turn, or a command run for each turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

SAME_FOR_ALL = {"TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": ""}
"""All run compiled, as installed packages do, even from a checkout whose user keeps no bytecode.
How threads wait is left to the libraries, as users have it: told to sleep at every barrier, two
threads are slower than one at a batch of one."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One repeat: seconds on the wall, seconds of processor, and what the entrant says of it."""

    seconds: float
    cpu_seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)


class Runner(Protocol):
    """An entrant that has been started."""

    def turn(self, number: int) -> Turn:
        """Do the work once; RuntimeError with one line when it fails."""

    @property
    def peak_bytes(self) -> int:
        """The most memory its process held so far."""

    @property
    def ready_seconds(self) -> float:
        """From the start to the first turn."""

    def close(self) -> None:
        """Stop it."""


class Answers:
    """A process that answers: a line of JSON there for each turn, a line of JSON back.

    `worker` is the other side.
    """

    def __init__(self, command: Sequence[str], settings: Mapping[str, Any], threads: int) -> None:
        """Raises RuntimeError, one line, when the process cannot do the work."""
        environment = {**os.environ, **SAME_FOR_ALL, "OMP_NUM_THREADS": str(threads)}
        began = time.perf_counter()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self.peak_bytes = 0
        self._ask(dict(settings))
        self.ready_seconds = time.perf_counter() - began

    def turn(self, number: int) -> Turn:
        """Have the work done once."""
        found = self._ask({"turn": number})
        return Turn(seconds=found["seconds"], cpu_seconds=found["cpu"], facts=found["facts"])

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            self.close()
            self._said.seek(0)
            raise RuntimeError(last_line(self._said.read().decode("utf-8", "replace")))
        found: dict[str, Any] = json.loads(answer)
        self.peak_bytes = found["peak"]
        return found

    def close(self) -> None:
        """End the process: it stops when nobody asks any more."""
        assert self._process.stdin is not None and self._process.stdout is not None
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Commands:
    """A command that is run anew for every turn; OUT in its words is a fresh folder."""

    ready_seconds = 0.0

    def __init__(
        self,
        command: Sequence[str],
        threads: int,
        facts: Callable[[Path], Mapping[str, Any]],
    ) -> None:
        """facts: what the folder says of a turn, read after it."""
        self.command, self.threads, self.facts = tuple(command), threads, facts
        self.peak_bytes = 0

    def turn(self, number: int) -> Turn:
        """Run the command, and wait for its end."""
        environment = {**os.environ, **SAME_FOR_ALL, "OMP_NUM_THREADS": str(self.threads)}
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
            words = [word.replace("OUT", folder) for word in self.command]
            began = time.perf_counter()
            process = subprocess.Popen(words, env=environment, stdout=said, stderr=said)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                said.seek(0)
                raise RuntimeError(last_line(said.read().decode("utf-8", "replace")))
            unit = 1 if sys.platform == "darwin" else 1024
            self.peak_bytes = max(self.peak_bytes, used.ru_maxrss * unit)
            facts = dict(self.facts(Path(folder)))
        return Turn(seconds=seconds, cpu_seconds=used.ru_utime + used.ru_stime, facts=facts)

    def close(self) -> None:
        """Nothing is left running."""


def last_line(said: str) -> str:
    """What a process that failed said last: with Python, the error."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it ended without a word"
