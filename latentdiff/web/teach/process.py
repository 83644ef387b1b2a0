"""A training in a process of its own, followed until it ends or is asked to stop."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from latentdiff.errors import UserError
from latentdiff.web.jobs import Job

PATIENCE = 180.0
"""Seconds that a process may take to save and end once it was asked to."""
LOOK = 0.25
"""Seconds between looks at it."""
NICE = 5
"""How much it stands back behind drawings on a processor that both want."""


def follow(
    command: Sequence[str],
    log: Path,
    job: Job,
    tick: Callable[[], object],
    *,
    saves: bool,
) -> None:
    """Run a command to its end; tick is called while it runs, and once after.

    What it says goes to `log`. saves: whether it writes a checkpoint when it is asked to stop, and
    is waited for; otherwise it is ended at once. Raises StoppedError when the job was stopped,
    UserError with its last word when it failed. Nothing of it is left running.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C at the server's terminal is the server's to pass on
        )
    with contextlib.suppress(psutil.Error):
        psutil.Process(process.pid).nice(NICE)
    asked: float | None = None
    try:
        while process.poll() is None:
            if job.wait(LOOK):
                if asked is None and saves:
                    asked = time.monotonic()
                    process.terminate()
                elif not saves or time.monotonic() - (asked or 0.0) > PATIENCE:
                    break
                else:
                    time.sleep(LOOK)
            tick()
    finally:
        kill(process)
    tick()
    job.check()
    if process.returncode:
        raise UserError(last_word(log))


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all below it, if there are any left."""
    if process.poll() is not None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        head = psutil.Process(process.pid)
        family = [*head.children(recursive=True), head]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family[:-1], timeout=10)
    process.wait()


def last_word(log: Path) -> str:
    """Why a command failed: the sentence of its own error, else its last line."""
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    ours = [line.rpartition(": error: ")[2] for line in lines if ": error: " in line]
    raised = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception)\b", line)]
    said = next(iter(ours or raised[-1:] or lines[-1:]), "it said nothing")
    return said.partition(". All it said: ")[0]
