"""What a run says: log.jsonl, TensorBoard, and a progress bar (or lines, away from a terminal)."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from latentdiff.progress import SILENCE


class _Writer(Protocol):
    def add_scalar(self, tag: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


class RunLog:
    """One JSON line an event, and the same numbers as TensorBoard curves."""

    def __init__(self, path: Path, tensorboard: Path | None, *, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._writer: _Writer | None = None
        if tensorboard is not None:
            self._writer = _tensorboard(tensorboard, step)

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append a line; numbers that JSON cannot hold become strings such as "nan"."""
        line = {"event": event, "step": step, "time": round(time.time(), 3)}
        line.update({key: _json(value) for key, value in values.items()})
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def scalars(self, event: str, step: int, values: Mapping[str, float]) -> None:
        """Append the numbers of an event and draw them."""
        self.write(event, step, **values)
        if self._writer is not None:
            for key, value in values.items():
                self._writer.add_scalar(f"{event}/{key}", value, step)

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def _json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _tensorboard(folder: Path, step: int) -> _Writer | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(
            "tensorboard is not installed, so only log.jsonl is written; "
            "pip install 'latentdiff[train]', or --no-tensorboard to silence this",
            flush=True,
        )
        return None
    return SummaryWriter(log_dir=str(folder), purge_step=step or None)


class Progress:
    """Samples per second and time left: a bar on a terminal, else a line every `seconds`."""

    def __init__(self, name: str, *, shown: bool, step: int, seconds: float = SILENCE) -> None:
        self._shown, self._name, self._seconds = shown, name, seconds
        self._bar: tqdm[Any] | None = None
        if shown and sys.stderr.isatty():
            # A terminal without a size counts as 80 columns; tqdm would draw nothing.
            width = shutil.get_terminal_size().columns
            self._bar = tqdm(desc=name, initial=step, unit="step", ncols=width)
        self._last_line = time.monotonic()

    def update(
        self, step: int, end: int | None, rate: float, left: float | None, note: str
    ) -> None:
        """`rate` in samples/s, `left` in seconds, `note` such as "loss 0.123"."""
        if not self._shown:
            return
        text = f"{rate:,.1f} samples/s, {clock(left)} left, {note}"
        if self._bar is not None:
            self._bar.total = end
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(text)
        elif time.monotonic() - self._last_line >= self._seconds:
            self._last_line = time.monotonic()
            of = f"/{end}" if end is not None else ""
            print(f"{self._name}: step {step}{of}, {text}", flush=True)

    def say(self, text: str) -> None:
        """A line that does not break the bar; silent on other processes."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._shown:
            print(text, flush=True)

    def close(self) -> None:
        """Leave the bar where it is."""
        if self._bar is not None:
            self._bar.close()


def clock(seconds: float | None) -> str:
    """12:34 or 1:02:03; a question mark while unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
