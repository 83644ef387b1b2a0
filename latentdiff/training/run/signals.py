"""SIGTERM, SIGHUP (a closed ssh) and Ctrl-C ask a run to save and stop; twice stops it at once.

The machine may leave only half a minute. So validating and drawing, which change nothing that is
saved, are cut short at once, and an update that does not end within some seconds is given up: the
checkpoint is then that of the step before.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar


def _stopping() -> list[int]:
    """The signals that stop a run; SIGHUP only where `nohup` or the like does not keep it off."""
    found: list[int] = [signal.SIGTERM, signal.SIGINT]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        found.append(hangup)
    return found


class _CutShortError(BaseException):
    """Raised by the handler into work that may be cut short; no library takes it for its own."""


class StopSignals:
    """While entered, `caught` holds the signal's number once one has come."""

    _entered: ClassVar[list[StopSignals]] = []

    def __init__(self) -> None:
        self.caught = 0
        self._may_cut = False
        self._grace = 0.0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _stopping():
                self._old[number] = signal.signal(number, self._handle)
            self._old[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._cut)
            self._entered.append(self)
        return self

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = number
        if self._grace:
            signal.setitimer(signal.ITIMER_REAL, self._grace)
        else:
            self._cut(number, None)

    def _cut(self, number: int, _: FrameType | None) -> None:
        if self._may_cut:
            raise _CutShortError

    def __exit__(self, *_: object) -> None:
        if self._old:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._old.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
        if self in self._entered:
            self._entered.remove(self)


def until_stopped(work: Callable[[], object], *, grace: float = 0.0) -> bool:
    """Do work that a stop signal may cut short anywhere; whether it was done to its end.

    `grace` is for how many seconds it may still go on after the signal. Once a signal was caught
    the work is not even begun. Outside of `StopSignals` it is just done.
    """
    if not StopSignals._entered:
        work()
        return True
    signals = StopSignals._entered[-1]
    try:
        try:
            signals._grace = grace
            signals._may_cut = True
            if signals.caught:
                return False
            work()
        finally:
            signals._may_cut = False
            signals._grace = 0.0
    except _CutShortError:
        return False
    return True
