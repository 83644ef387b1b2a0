"""Validation on fixed (picture, t, ε) pairs: how far the loss has moved, and how sure that is.

The loss of a diffusion model varies far more between pictures, timesteps and noises than between
two checkpoints. So the same pairs are measured each time, and the difference is taken pair by
pair before it is averaged: what is common to both drops out. Its standard error is clustered by
picture, for several pairs of one picture are not independent.

RUN/validation/step-XXXXXXXX.json holds one measurement each.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff import files
from latentdiff.errors import UserError
from latentdiff.evaluation.paired import Estimate, clustered_mean
from latentdiff.training.paired_losses import GROUPS, Group, PairedLosses

ALL = "all"
_FORMAT = "latentdiff-validation-1"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How the mean loss of one group and timestep bin moved: now minus then.

    bin_name: "all", or "t 0–249". n: pairs. pictures: independent clusters among them.
    standard_error: of `difference`, clustered by picture; NaN with a single picture.
    significant: zero lies outside the two-sided 95 % interval.
    """

    group: Group
    bin_name: str
    n: int
    pictures: int
    mean_now: float
    difference: float
    standard_error: float
    significant: bool


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What one validation says.

    scalars: curve names and values. line: the same for a person. best: the held-out loss is
    significantly below the best so far. worse: it is significantly above it, so the model is
    probably overfitting.
    """

    scalars: dict[str, float]
    line: str
    best: bool
    worse: bool
    differences: tuple[Difference, ...]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A record as it lies in the folder: compared with step `since`; best, worse as `Recorded`."""

    step: int
    since: int
    differences: tuple[Difference, ...]
    best: bool
    worse: bool


def compare(first: PairedLosses, now: PairedLosses, bins: int = 4) -> tuple[Difference, ...]:
    """The paired differences now - first: each group overall, then by timestep bin.

    Raises ValueError when the two did not measure the same pairs. Bins without pairs are left
    out. Held-out pictures come first.
    """
    if not first.same_pairs(now):
        raise ValueError("the two validations measured different pairs")
    difference = now.losses - first.losses
    group = np.asarray(now.group)
    rows = []
    for name in GROUPS:
        chosen: list[tuple[str, NDArray[np.bool_]]] = [(ALL, group == name)]
        for low, high in now.bin_edges(bins):
            inside = (now.t >= low) & (now.t < high)
            chosen.append((f"t {low}–{high - 1}", (group == name) & inside))
        for label, mask in chosen:
            if not mask.any():
                continue
            estimate = _estimate(difference, now.ids, mask)
            rows.append(
                Difference(
                    group=name,
                    bin_name=label,
                    n=estimate.n,
                    pictures=estimate.clusters,
                    mean_now=float(now.losses[mask].mean()),
                    difference=estimate.mean,
                    standard_error=estimate.standard_error,
                    significant=estimate.differs(),
                )
            )
    return tuple(rows)


def _estimate(
    values: NDArray[np.float64], ids: tuple[str, ...], mask: NDArray[np.bool_]
) -> Estimate:
    return clustered_mean(values[mask], [ids[i] for i in np.flatnonzero(mask)])


def _held_out_change(then: PairedLosses, now: PairedLosses) -> Estimate:
    mask = np.asarray(now.group) == "held-out"
    return _estimate(now.losses - then.losses, now.ids, mask)


def _below(change: Estimate) -> bool:
    """Whether a change is a fall, and significant as `Difference` counts it."""
    return change.differs() and change.mean < 0


class ValidationLog:
    """The validations of a run: compared with the first, and with the best so far.

    A step counts as the new best only when its held-out loss is below the best so far by a
    paired difference that is significant (two-sided, 95 %; each validation is one test of its
    own). The first record is what later ones are compared with; without held-out pictures
    nothing is ever called best. A resumed run reads the folder again; what was recorded at or
    after the step that is recorded next belongs to a past that was undone, and is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best_step: int | None = None
        self._records: dict[int, PairedLosses] = {}
        for step, file in record_files(folder):
            self._records[step] = read_record(file)
        self._first: tuple[int, PairedLosses] | None = None
        self._best: PairedLosses | None = None
        self._follow()

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps, rising."""
        return tuple(sorted(self._records))

    def drop_from(self, step: int) -> None:
        """Forget, and remove from the folder, what was recorded at `step` or later."""
        for recorded in [s for s in self._records if s >= step]:
            del self._records[recorded]
            (self.folder / _file_name(recorded)).unlink(missing_ok=True)
        self._follow()

    def record(self, step: int, losses: PairedLosses) -> Recorded:
        """Store the losses of `step`, and say how they compare."""
        self.drop_from(step)
        changed = self._first is not None and not self._first[1].same_pairs(losses)
        if changed:
            # Other pictures, or another number of them: nothing to compare with.
            self._first, self._best, self.best_step = None, None, None
        since, first = self._first or (step, losses)
        differences = compare(first, losses)
        change = None if self._best is None else _held_out_change(self._best, losses)
        best = change is not None and _below(change)
        worse = change is not None and change.differs() and change.mean > 0
        line = _line(
            step,
            differences,
            since=None if self._first is None else since,
            best=best,
            worse=worse,
            best_step=self.best_step,
            changed=changed,
        )
        recorded = Recorded(
            scalars=_scalars(differences),
            line=line,
            best=best,
            worse=worse,
            differences=differences,
        )
        files.write_json(self.folder / _file_name(step), _to_json(step, since, losses, recorded))
        self._records[step] = losses
        self._advance(step, losses)
        return recorded

    def _follow(self) -> None:
        """Find first and best again, by the rule that made them."""
        self._first, self._best, self.best_step = None, None, None
        for step in sorted(self._records):
            self._advance(step, self._records[step])

    def _advance(self, step: int, losses: PairedLosses) -> None:
        if self._first is None or not self._first[1].same_pairs(losses):
            self._first = (step, losses)
            self._best, self.best_step = losses, step
            return
        assert self._best is not None
        if _below(_held_out_change(self._best, losses)):
            self._best, self.best_step = losses, step


def _file_name(step: int) -> str:
    return f"step-{step:08d}.json"


def record_files(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of every record in a folder, rising; empty when there is no folder."""
    found = []
    for file in folder.glob("step-*.json"):
        number = file.stem.removeprefix("step-")
        if number.isdecimal():
            found.append((int(number), file))
    return sorted(found)


def read_record(file: Path) -> PairedLosses:
    """The losses that `ValidationLog.record` wrote; UserError when the file is damaged."""
    try:
        value = json.loads(file.read_text("utf-8"))
        if value["format"] != _FORMAT:
            raise ValueError(f"format {value['format']!r}")
        losses = [math.nan if loss is None else float(loss) for loss in value["losses"]]
        return PairedLosses(
            ids=tuple(value["ids"]),
            t=np.asarray(value["t"], np.int64),
            losses=np.asarray(losses, np.float64),
            group=tuple(value["group"]),
            num_train_timesteps=int(value["num_train_timesteps"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{file} is not a validation record ({error}); remove it") from error


def read_summary(file: Path) -> Stored:
    """What a record says, without its pairs; UserError when the file is damaged."""
    try:
        value = json.loads(file.read_text("utf-8"))
        return Stored(
            step=int(value["step"]),
            since=int(value["since"]),
            differences=tuple(_difference(row) for row in value["differences"]),
            best=bool(value["best"]),
            worse=bool(value["worse"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{file} is not a validation record ({error}); remove it") from error


def _difference(row: dict[str, Any]) -> Difference:
    values: dict[str, Any] = {key: math.nan if x is None else x for key, x in row.items()}
    return Difference(**values)


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_json(step: int, since: int, losses: PairedLosses, recorded: Recorded) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "step": step,
        "since": since,
        "best": recorded.best,
        "worse": recorded.worse,
        "line": recorded.line,
        "differences": [
            {key: _finite(value) for key, value in asdict(row).items()}
            for row in recorded.differences
        ],
        "num_train_timesteps": losses.num_train_timesteps,
        "ids": list(losses.ids),
        "t": losses.t.tolist(),
        "group": list(losses.group),
        "losses": [_finite(loss) for loss in losses.losses.tolist()],
    }


def _scalars(differences: tuple[Difference, ...]) -> dict[str, float]:
    """Curve names: "held-out/loss", "held-out/difference", "held-out/t0-249/difference"."""
    found: dict[str, float] = {}
    for row in differences:
        place = row.group if row.bin_name == ALL else f"{row.group}/{row.bin_name}"
        # TensorBoard takes neither spaces nor dashes other than ASCII's.
        place = place.replace("–", "-").replace(" ", "")
        found[f"{place}/loss"] = row.mean_now
        found[f"{place}/difference"] = row.difference
        found[f"{place}/standard_error"] = row.standard_error
    return found


def change(row: Difference) -> tuple[str, str]:
    """Difference and standard error, with as many digits as the error lends meaning to; of one
    picture there is no error, "?"."""
    known = math.isfinite(row.standard_error)
    scale = row.standard_error if row.standard_error > 0 else abs(row.difference)
    digits = 4
    if math.isfinite(scale) and scale > 0:
        digits = min(9, max(4, 1 - math.floor(math.log10(scale))))
    error = f"{row.standard_error:.{digits}f}" if known else "?"
    return f"{row.difference:+.{digits}f}", error


def _line(
    step: int,
    differences: tuple[Difference, ...],
    *,
    since: int | None,
    best: bool,
    worse: bool,
    best_step: int | None,
    changed: bool,
) -> str:
    parts = []
    for row in differences:
        if row.bin_name != ALL:
            continue
        text = f"{row.group} loss {row.mean_now:.4f}"
        if since is not None:
            verdict = "" if row.significant else ", not significant"
            if not math.isfinite(row.standard_error):
                verdict = ", of one picture"
            text += f" ({' ± '.join(change(row))} since step {since}{verdict})"
        parts.append(text)
    line = f"step {step}: " + "; ".join(parts or ["no validation pairs"])
    if changed:
        line += "; the validation pairs have changed: compared from here on"
    if best:
        line += "; best so far"
    elif worse:
        line += f"; significantly worse than at step {best_step}: overfitting?"
    return line
