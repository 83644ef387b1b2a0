"""Children forked from a loaded parent: they start in no time, and may be killed at any.

The parent itself never trains: torch refuses gradients in the children of a process that has.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def fork(work: Callable[[], object], log: Path) -> int:
    """Do `work` in a child, its words in a file; the child's number. It ends with code 0 or 1."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(words, 1)
        os.dup2(words, 2)
        sys.stdout = sys.stderr = os.fdopen(words, "w", buffering=1, closefd=False)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def wait(child: int, seconds: float | None = None) -> int | None:
    """The child's exit code (minus the signal's number), or None after so many seconds."""
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, 0 if until is None else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() >= until:
            return None
        time.sleep(0.0005)


def kill(child: int) -> None:
    """SIGKILL, and wait until it is gone."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def done(work: Callable[[], object], log: Path) -> str:
    """Do `work` in a child to its end; what it said."""
    code = wait(fork(work, log))
    words = log.read_text("utf-8")
    assert code == 0, words
    return words


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is room: a killed process loses nothing of either kind."""
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and shutil.disk_usage(shm).free > 1 << 28
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=shm if roomy else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
