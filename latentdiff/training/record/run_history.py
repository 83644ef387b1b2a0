"""What a run folder tells about its run: log, validations, sheets, data, read without failing.

A report is wanted most when something went wrong, so a file that is missing, cut off or from
another version costs its own part of the page, with a note, and nothing else.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from latentdiff.errors import UserError
from latentdiff.files.text_file import lines_of
from latentdiff.training.record.run_folder import RunFolder
from latentdiff.training.record.validation import Stored, read_summary, record_files

DATA = "data.json"
BAD_SAMPLES = "bad_samples.jsonl"
VALIDATION = "validation"
_BAD_LISTED = 50


@dataclass(frozen=True)
class Sheet:
    """A sample sheet: its picture, and what reproduces it (sheets/step-XXXXXXXX.json)."""

    step: int
    file: Path
    recipe: Any = None


@dataclass
class RunHistory:
    """A run folder's content as plain values.

    train, validate: curve name -> (steps, values). begins: the log's begin events, in order.
    marks: (step, text) of what happened between. trouble: why it broke down. ended: how its last
    sitting ended. processes: what each had done then. notes: what could not be read.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    begins: list[dict[str, Any]] = field(default_factory=list)
    train: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    validate: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    marks: list[tuple[float, str]] = field(default_factory=list)
    validated: list[Stored] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    data: Any = None
    bad_counts: Counter[str] = field(default_factory=Counter)
    bad_listed: list[dict[str, Any]] = field(default_factory=list)
    trouble: str = ""
    ended: str = ""
    processes: list[Any] = field(default_factory=list)
    last_step: int = 0
    last_time: float = math.nan
    notes: list[str] = field(default_factory=list)

    def last(self, name: str) -> float:
        """The last value of a train curve; NaN when there is none."""
        values = self.train.get(name, ([], []))[1]
        return values[-1] if values else math.nan


def read_history(run_dir: Path) -> RunHistory:
    """Everything that is there; UserError only when `run_dir` holds no run at all."""
    folder = RunFolder(run_dir)
    if not folder.log.is_file() and not folder.config.is_file():
        raise UserError(
            f"{run_dir} is not a run folder: it holds neither config.yaml nor log.jsonl; "
            "name the folder that was given as --run-dir"
        )
    history = RunHistory(path=run_dir)
    _read_config(history, folder.config)
    _read_log(history, folder.log)
    _read_validation(history, run_dir / VALIDATION)
    _read_sheets(history, folder.sheets)
    history.data = _read_json(history, run_dir / DATA)
    _read_bad_samples(history, run_dir / BAD_SAMPLES)
    return history


def _read_config(history: RunHistory, file: Path) -> None:
    try:
        value = yaml.safe_load(file.read_text("utf-8"))
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        history.notes.append(f"{file.name} cannot be read: {error}")
        return
    history.config = value if isinstance(value, dict) else {}


def _lines(history: RunHistory, file: Path) -> list[dict[str, Any]]:
    try:
        text = file.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        history.notes.append(f"{file.name} cannot be read: {error.strerror}")
        return []
    rows, bad = [], 0
    for line in lines_of(text):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line.strip():
            bad += 1
    if bad:
        lines = "1 line" if bad == 1 else f"{bad} lines"
        history.notes.append(f"{lines} of {file.name} left out: not JSON")
    return rows


def _read_log(history: RunHistory, file: Path) -> None:
    rows: list[tuple[int, dict[str, Any]]] = []
    for row in _lines(history, file):
        step = row.get("step")
        if not isinstance(step, int) or isinstance(step, bool):
            continue
        if row.get("event") == "begin":
            # A later sitting undoes what an earlier one did after the checkpoint it goes on from.
            rows = [(s, r) for s, r in rows if s <= step or r.get("event") == "begin"]
        rows.append((step, row))
    for step, row in rows:
        event = row.get("event")
        if event in ("train", "validate"):
            _add(history.train if event == "train" else history.validate, step, row)
        elif event == "begin":
            history.begins.append(row)
            if len(history.begins) > 1:
                history.marks.append((step, "resumed"))
        elif event == "decay":
            history.marks.append((step, "decay"))
        elif event == "non_finite":
            history.marks.append((step, "not finite"))
        history.last_step = max(history.last_step, step)
        history.last_time = _number(row.get("time"))
    if rows:
        last = rows[-1][1]
        history.trouble = str(last.get("message", "")) if last.get("event") == "non_finite" else ""
        if last.get("event") == "end":
            history.ended = str(last.get("stopped", ""))
            found = last.get("processes")
            history.processes = found if isinstance(found, list) else []


def _add(
    curves: dict[str, tuple[list[float], list[float]]], step: int, row: Mapping[str, Any]
) -> None:
    for name, value in row.items():
        if name in ("event", "step", "time"):
            continue
        number = _number(value)
        # NaN and infinity are logged as text and interrupt a curve; other text is no curve.
        if not math.isfinite(number) and value not in ("nan", "inf", "-inf"):
            continue
        steps, values = curves.setdefault(name, ([], []))
        if steps and steps[-1] >= step:
            continue
        steps.append(float(step))
        values.append(number)


def _number(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return math.nan


def _read_validation(history: RunHistory, folder: Path) -> None:
    for _, file in record_files(folder):
        try:
            history.validated.append(read_summary(file))
        except UserError as error:
            history.notes.append(str(error))


def _read_sheets(history: RunHistory, folder: Path) -> None:
    for file in sorted(folder.glob("step-*.png")):
        number = file.stem.removeprefix("step-")
        if number.isdecimal():
            recipe = _read_json(history, file.with_suffix(".json"))
            history.sheets.append(Sheet(int(number), file, recipe))


def _read_json(history: RunHistory, file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        history.notes.append(f"{file.name} cannot be read: {error}")
        return None


def _read_bad_samples(history: RunHistory, file: Path) -> None:
    seen = set()
    for row in _lines(history, file):
        # A sample that is met again in a later epoch is still one bad sample.
        where = str(row.get("id", row.get("where", row)))
        if where in seen:
            continue
        seen.add(where)
        history.bad_counts[str(row.get("code", "unnamed"))] += 1
        if len(history.bad_listed) < _BAD_LISTED:
            history.bad_listed.append(row)
