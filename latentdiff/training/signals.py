"""SIGTERM and Ctrl-C ask a run to save and stop; asking twice stops it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """While entered, `caught` holds the signal's number once one has come."""

    def __init__(self) -> None:
        self.caught = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
