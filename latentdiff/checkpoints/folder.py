"""Checkpoint folders: written whole, found newest-first, rotated only after the new one stands.

checkpoints/step-00000120/
    weights.safetensors  ema.safetensors  optimizer.safetensors  state.json  manifest.json
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentdiff import files
from latentdiff.checkpoints.state import TrainState
from latentdiff.errors import UserError

WEIGHTS, EMA, OPTIMIZER = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that resuming needs; tensors lie on the CPU, contiguous."""

    state: TrainState
    weights: Tensors
    ema: Tensors
    optimizer: Tensors


@dataclass(frozen=True)
class Found:
    """The newest whole checkpoint, if any, and what was passed over with the reason."""

    path: Path | None
    skipped: tuple[str, ...]


def folder_name(step: int) -> str:
    """The name under which the checkpoint after `step` updates stands."""
    return f"step-{step:08d}"


def save(root: Path, checkpoint: Checkpoint) -> Path:
    """Write and publish a checkpoint under `root`; a half-written one is never visible."""
    target = root / folder_name(checkpoint.state.step)
    with files.publish_folder(target) as folder:
        save_file(_plain(checkpoint.weights), folder / WEIGHTS)
        save_file(_plain(checkpoint.ema), folder / EMA)
        save_file(_plain(checkpoint.optimizer), folder / OPTIMIZER)
        files.write_json(folder / STATE, checkpoint.state.to_json())
    return target


def _plain(tensors: Tensors) -> Tensors:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def read_state(folder: Path) -> TrainState:
    """The state of a checkpoint folder; UserError when it is not one."""
    try:
        return TrainState.from_json(json.loads((folder / STATE).read_text("utf-8")))
    except (OSError, ValueError):
        raise UserError(
            f"{folder} is not a training checkpoint: no readable {STATE}; "
            f"expected a folder such as RUN/checkpoints/{folder_name(120)}"
        ) from None


def load(folder: Path) -> Checkpoint:
    """Read a whole checkpoint, its hashes checked; UserError says what is wrong."""
    state = read_state(folder)
    problems = files.verify_manifest(folder)
    if problems:
        raise UserError(f"the checkpoint {folder} is damaged: {'; '.join(problems)}")
    return Checkpoint(
        state=state,
        weights=_read(folder / WEIGHTS),
        ema=_read(folder / EMA),
        optimizer=_read(folder / OPTIMIZER),
    )


def load_ema(folder: Path) -> Tensors:
    """The averaged weights of a checkpoint alone."""
    return load(folder).ema


def _read(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def stored(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything under `root` that is named like a checkpoint, oldest first."""
    if not root.is_dir():
        return []
    named = ((_NAME.fullmatch(p.name), p) for p in root.iterdir() if p.is_dir())
    return sorted((int(match.group(1)), path) for match, path in named if match)


def newest_whole(root: Path) -> Found:
    """The newest checkpoint whose files all match their manifest."""
    skipped: list[str] = []
    for _, path in reversed(stored(root)):
        problems = files.verify_manifest(path)
        if not problems:
            try:
                read_state(path)
            except UserError as error:
                problems = [str(error)]
        if not problems:
            return Found(path, tuple(skipped))
        skipped.append(f"{path.name}: {'; '.join(problems)}")
    return Found(None, tuple(skipped))


def rotate(root: Path, keep: int) -> list[Path]:
    """Remove all but the `keep` newest checkpoints and those marked to be kept; what went."""
    removed: list[Path] = []
    for _, path in stored(root)[:-keep]:
        try:
            kept = read_state(path).keep
        except UserError:
            kept = False
        if not kept:
            # Out of the way first, so that a half-removed folder is never taken for a checkpoint.
            aside = path.with_name(f".tmp-{path.name}-removed")
            path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
            removed.append(path)
    return removed
