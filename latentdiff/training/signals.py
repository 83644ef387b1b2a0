"""SIGTERM and Ctrl-C ask a run to save and stop; asking twice stops it at once.

An update is always finished, since a checkpoint lies between two of them. Validating and drawing
change nothing that is saved, so they are cut short: the machine may leave only half a minute.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar


class _CutShortError(BaseException):
    """Raised by the handler into work that may be cut short; no library takes it for its own."""


class StopSignals:
    """While entered, `caught` holds the signal's number once one has come."""

    _entered: ClassVar[list[StopSignals]] = []

    def __init__(self) -> None:
        self.caught = 0
        self._may_cut = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
            self._entered.append(self)
        return self

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = number
        if self._may_cut:
            raise _CutShortError

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
        if self in self._entered:
            self._entered.remove(self)


def until_stopped(work: Callable[[], object]) -> bool:
    """Do work that a stop signal may cut short anywhere; whether it was done to its end.

    Once a signal was caught it is not even begun. Outside of `StopSignals` it is just done.
    """
    if not StopSignals._entered:
        work()
        return True
    signals = StopSignals._entered[-1]
    try:
        try:
            signals._may_cut = True
            if signals.caught:
                return False
            work()
        finally:
            signals._may_cut = False
    except _CutShortError:
        return False
    return True
