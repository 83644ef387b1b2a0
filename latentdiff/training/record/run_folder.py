"""The folder of one run: where things lie, who may write, which settings it was made with.

config.yaml  data.json  log.jsonl  report.html  bad_samples.jsonl
tensorboard/  sheets/  validation/  checkpoints/  export/  best/  non_finite/
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.config import to_dict
from latentdiff.errors import UserError
from latentdiff.training.train_config import TrainConfig

# How a sitting is started, not what the run is.
_SITTING = frozenset(
    {"resume", "dry_run", "stop_at", "run_dir", "num_workers", "prefetch", "threads"}
)


class RunFolder:
    """Paths of a run, and the checks before one begins or goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.log = path / "log.jsonl"
        self.tensorboard = path / "tensorboard"
        self.data = path / "data.json"
        self.sheets = path / "sheets"
        self.validation = path / "validation"
        self.best = path / "best"
        self.checkpoints = path / "checkpoints"
        self.export = path / "export"
        self.non_finite = path / "non_finite"

    def clear_interrupted_writes(self) -> None:
        """Undo what a killed trainer was writing; only for the one who holds the folder's lock."""
        folders = [self.path, *(p for p in self.path.iterdir() if p.is_dir())]
        for folder in folders:
            files.remove_temporaries(folder)

    def refuse_if_used(self) -> None:
        """A new run never writes over another's checkpoints."""
        stored = checkpoints.stored(self.checkpoints)
        if stored:
            raise UserError(
                f"{self.path} already holds a run at step {stored[-1][0]}; "
                "give --resume to go on with it, or another --run-dir"
            )

    def newest_checkpoint(self) -> checkpoints.Found:
        """What to resume from; UserError when there is nothing whole."""
        found = checkpoints.newest_whole(self.checkpoints)
        if found.path is None:
            why = "; ".join(found.skipped) or "no checkpoint in it"
            raise UserError(
                f"nothing to resume in {self.path}: {why}; leave out --resume to begin a run"
            )
        return found

    def save_config(self, config: object) -> list[str]:
        """Write config.yaml; returns what differs from the one that stood there."""
        changes: list[str] = []
        if self.config.is_file():
            old = yaml.safe_load(self.config.read_text("utf-8")) or {}
            changes = list(_differences(old, to_dict(config)))
        files.write_text(self.config, yaml.safe_dump(to_dict(config), sort_keys=False))
        return changes

    def save_data(self, summary: Mapping[str, Any], fingerprint: str, *, resume: bool) -> None:
        """Write data.json, what the run learns from; UserError when a resumed run finds other data.

        Sample order and noise are addressed by row, so with other data an old checkpoint would go
        on with samples that it has seen, or not, by accident.
        """
        if resume and self.data.is_file():
            try:
                old = json.loads(self.data.read_text("utf-8"))["fingerprint"]
            except (OSError, ValueError, KeyError, TypeError):
                old = fingerprint
            if old != fingerprint:
                raise UserError(
                    f"the data are not those that the run in {self.path} was begun with "
                    f"({fingerprint[:12]}… now, {str(old)[:12]}… then): pictures were added, "
                    "removed or renamed, or captions edited; bring them back, or begin a new run "
                    f"with --init-from {self.path}"
                )
        files.write_json(self.data, {**summary, "fingerprint": fingerprint})


def default_path(train: TrainConfig, task_name: str) -> Path:
    """run_dir, or $LATENTDIFF_RUNS/<task>, or runs/<task>."""
    if train.run_dir is not None:
        return train.run_dir
    return Path(os.environ.get("LATENTDIFF_RUNS", "runs")) / task_name


def config_hash(config: object) -> str:
    """16 hexadecimal digits over all settings that make the run what it is."""
    text = json.dumps(_essential(to_dict(config)), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _essential(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _essential(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in _SITTING
    }


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            if key not in _SITTING:
                yield from _differences(old.get(key), new.get(key), f"{where}.{key}".strip("."))
    elif old != new:
        yield f"{where} {old} -> {new}"
