"""Processes of a recipe: started side by side, watched through their logs, each done once."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from latentdiff import files
from latentdiff.errors import UserError


class Stage:
    """One process: its log in RUN/logs, its marker in RUN/stages once it is done.

    command: arguments of the Python interpreter. A stage whose marker stands is not run again.
    """

    begun: ClassVar[list[Stage]] = []

    def __init__(self, run_dir: Path, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.marker = run_dir / "stages" / f"{name}.json"
        self.log = run_dir / "logs" / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.begun.append(self)
        self.started = time.monotonic()
        if self.marker.exists():
            say(f"{name}: done before")
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        say(f"{name}: {shlex.join(command)}")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def line(self) -> str:
        """The newest line of the log."""
        return f"{self.name}: {last_line(self.log)}"

    def finish(self, others: Sequence[Stage] = (), *, needed: bool = True) -> bool:
        """Wait, saying how all go every 20 s; True when it ended well.

        Raises UserError when it failed and the recipe cannot go on without it (needed).
        """
        shown = time.monotonic()
        while self.running:
            time.sleep(0.2)
            if time.monotonic() - shown > 20:
                shown = time.monotonic()
                for stage in dict.fromkeys([self, *others]):
                    if stage.running:
                        say(stage.line())
        if self.process is None:
            return True
        seconds = time.monotonic() - self.started
        if self.process.returncode == 0:
            files.write_json(self.marker, {"seconds": round(seconds, 1)})
            say(f"{self.name}: done after {seconds:.0f} s; {last_line(self.log)}")
            self.process = None
            return True
        tail = "\n    ".join(self.log.read_text("utf-8", "replace").splitlines()[-15:])
        message = f"stage {self.name} failed with code {self.process.returncode}:\n    {tail}"
        if needed:
            raise UserError(message)
        say(message)
        return False

    def stop(self) -> None:
        """End the process if it still runs."""
        if self.process is not None and self.running:
            self.process.terminate()
            self.process.wait(timeout=20)


def last_line(log: Path) -> str:
    """The end of a log, with progress bars' carriage returns undone."""
    if not log.exists():
        return "not started"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
    return next((line.strip()[:220] for line in reversed(lines) if line.strip()), "started")


_BEGIN = time.monotonic()


def say(text: str) -> None:
    """Print with the minutes since the recipe began."""
    print(f"[{(time.monotonic() - _BEGIN) / 60:5.2f} min] {text}", flush=True)
