"""Checkpoint folders: written whole, found newest-first, rotated only after the new one stands.

checkpoints/step-00000120/
    weights.safetensors  ema.safetensors  optimizer.safetensors  state.json  manifest.json
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentdiff import files
from latentdiff.checkpoints.state import TrainState
from latentdiff.checkpoints.tensor_file import file_size, write_tensors
from latentdiff.errors import UserError

WEIGHTS, EMA, OPTIMIZER = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"
STATE = "state.json"
_FILES = (WEIGHTS, EMA, OPTIMIZER, STATE)
_NAME = re.compile(r"step-(\d{8,})")
_SET_ASIDE = "damaged-"
_SMALL = 16_384
"""Room for state.json and the manifest, generously."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that resuming needs; loaded tensors lie on the CPU, contiguous."""

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
    """Write and publish a checkpoint under `root`; a half-written one is never visible.

    Raises UserError when it cannot be written, with the bytes that are missing on a full disk;
    the checkpoints that stood before still stand then.
    """
    target = root / folder_name(checkpoint.state.step)
    parts = {
        WEIGHTS: checkpoint.weights,
        EMA: checkpoint.ema,
        OPTIMIZER: checkpoint.optimizer,
    }
    size = sum(file_size(tensors) for tensors in parts.values()) + _SMALL
    with files.publish_folder(target, size=size) as folder:
        for name, tensors in parts.items():
            write_tensors(folder / name, tensors)
        files.write_json(folder / STATE, checkpoint.state.to_json())
    return target


def read_state(folder: Path) -> TrainState:
    """The state of a checkpoint folder; UserError when it is not one."""
    try:
        return TrainState.from_json(json.loads((folder / STATE).read_text("utf-8")))
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f"{folder} is not a training checkpoint: no readable {STATE}; "
            f"expected a folder such as RUN/checkpoints/{folder_name(120)}"
        ) from None


def load(folder: Path) -> Checkpoint:
    """Read a whole checkpoint, its hashes checked; UserError says what is wrong."""
    state = _whole(folder)
    return Checkpoint(
        state=state,
        weights=_read(folder / WEIGHTS),
        ema=_read(folder / EMA),
        optimizer=_read(folder / OPTIMIZER),
    )


def load_ema(folder: Path) -> Tensors:
    """The averaged weights of a checkpoint alone, all of it checked."""
    _whole(folder)
    return _read(folder / EMA)


def _whole(folder: Path) -> TrainState:
    state = read_state(folder)
    problems = files.verify_manifest(folder, needed=_FILES)
    if problems:
        raise UserError(f"the checkpoint {folder} is damaged: {'; '.join(problems)}")
    return state


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
        problems = files.verify_manifest(path, needed=_FILES)
        if not problems:
            try:
                read_state(path)
            except UserError as error:
                problems = [str(error)]
        if not problems:
            return Found(path, tuple(skipped))
        skipped.append(f"{path.name}: {'; '.join(problems)}")
    return Found(None, tuple(skipped))


def set_aside_newer(root: Path, than: Path) -> list[Path]:
    """Rename what is newer than the checkpoint resumed from, and so was passed over as damaged.

    Otherwise rotation would count it among the newest, and remove whole ones for its sake. The
    files stay, for a look: `damaged-step-…`. Returns where they are now.
    """
    names = [path for _, path in stored(root)]
    moved = []
    for path in names[names.index(than) + 1 :]:
        number, aside = 1, path.with_name(_SET_ASIDE + path.name)
        while aside.exists():
            number, aside = number + 1, path.with_name(f"{_SET_ASIDE}{path.name}-{number + 1}")
        path.rename(aside)
        moved.append(aside)
    return moved


def rotate(root: Path, keep: int) -> list[Path]:
    """Remove all but the `keep` newest checkpoints and those marked to be kept; what went.

    Call it only when a new one stands. One that cannot be removed stays, with a warning: a run
    is worth more than the room.
    """
    removed: list[Path] = []
    for _, path in stored(root)[:-keep]:
        try:
            kept = read_state(path).keep
        except UserError:
            kept = False
        if kept:
            continue
        try:
            files.discard_folder(path)
        except OSError as error:
            warnings.warn(
                f"cannot remove the old checkpoint {path} ({error.strerror}); remove it by hand",
                stacklevel=2,
            )
        else:
            removed.append(path)
    return removed
