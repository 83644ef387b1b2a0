"""Checkpoints that are written while training goes on: by one thread, from a copy of the state.

What is written, and in which order, is what `checkpoints.store` does in any case, so a kill at any
moment leaves the checkpoint before, whole. There is never more than one copy: who saves again waits
for the last write. A process that ends abruptly does not wait for the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from latentdiff import devices

SPARE_BYTES = 2**30
"""Memory that a copy leaves to others."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A checkpoint that stands, and the minutes of the run at which it was taken."""

    step: int
    path: Path
    minutes: float


def room_for(size: int) -> bool:
    """Whether the machine has memory for a copy of so many bytes."""
    return devices.memory_available() > size + SPARE_BYTES


class CheckpointWriter:
    """At most one write at a time. Leaving it waits for that, unless a second signal came."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._written: Written | None = None
        self._error: BaseException | None = None

    def begin(self, write: Callable[[], Written]) -> None:
        """Call `write` in a thread; the last write must have been waited for."""
        assert self._thread is None, "the last checkpoint is still being written"
        self._thread = threading.Thread(
            target=self._run, args=(write,), name="checkpoint writer", daemon=True
        )
        self._thread.start()

    def _run(self, write: Callable[[], Written]) -> None:
        try:
            with torch.no_grad():
                self._written = write()
        except BaseException as error:
            self._error = error

    def poll(self) -> Written | None:
        """The checkpoint that was finished since the last question; raises what went wrong."""
        if self._thread is None or self._thread.is_alive():
            return None
        return self.wait()

    def wait(self) -> Written | None:
        """The same, once nothing is being written any more."""
        if self._thread is None:
            return None
        self._thread.join()
        self._thread = None
        error, written = self._error, self._written
        self._error = self._written = None
        if error is not None:
            raise error
        return written

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None and (kind is None or issubclass(kind, Exception)):
            self._thread.join()  # whoever resumes finds it
