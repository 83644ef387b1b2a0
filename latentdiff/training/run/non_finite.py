"""What a run leaves when a loss or gradient is not finite, and how it is opened again.

RUN/non_finite/step-00000120/
    report.json           step, positions, samples, loss, the first offending module, twice
    batch.safetensors     the task's batch as it came, and the device's random state
    weights.safetensors   trained weights and buffers, as they were when the batch came
    config.yaml           settings from which the task is built again, without its data
    …                     what else the task needs for that (`keep_parts`)
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentdiff import config as configs
from latentdiff import files
from latentdiff.errors import UserError
from latentdiff.training.context import RunContext
from latentdiff.training.optimizers.ema import AveragedWeights
from latentdiff.training.optimizers.guarded_step import Trouble
from latentdiff.training.positions import Positions
from latentdiff.training.run import snapshot
from latentdiff.training.run.batches import seed_modules
from latentdiff.training.run.replay import Replay, replay, sample_losses
from latentdiff.training.sharding import is_sharded
from latentdiff.training.task import Batch, Task

if TYPE_CHECKING:
    from latentdiff.training.run.processes import Processes

REPORT, BATCH, WEIGHTS, CONFIG = (
    "report.json",
    "batch.safetensors",
    "weights.safetensors",
    "config.yaml",
)
_RANDOM = "random state"
_OURS = "latentdiff.training."


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A run that stopped, as its main process holds it."""

    task: Task
    module: nn.Module
    """The task's module with whole tensors."""
    weights: dict[str, Tensor]
    settings: object
    seed: int
    positions: Positions
    trouble: Trouble
    processes: Processes
    loss_scale: float


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One process's micro-batch of the step."""

    rank: int
    micro: int
    positions: tuple[int, ...]
    batch: Batch
    random: Tensor
    """State of the device's generator before the forward pass."""


def keep(folder: Path, stop: Stop) -> str:
    """Write the folder; returns a sentence for the run's message that says so, or why not."""
    try:
        with files.publish_folder(folder) as place:
            tensors = {n: t.detach().cpu().contiguous() for n, t in stop.weights.items()}
            save_file(tensors, place / WEIGHTS)
            files.write_json(place / REPORT, _report(stop, place))
            configs.save_yaml(stop.settings, place / CONFIG)
            keep_parts = getattr(stop.task, "keep_parts", None)
            if keep_parts is not None:
                keep_parts(place)
    # Whatever this is: the run has stopped for a reason of its own, which must not be lost.
    except Exception as error:
        return f". What it saw could not be kept: {type(error).__name__}: {error}"
    return f". All of it is kept: latentdiff debug {folder}"


def _report(stop: Stop, place: Path) -> dict[str, Any]:
    """Find the piece that is to blame, save it, and say what two passes over it showed."""
    processes, trouble = stop.processes, stop.trouble
    piece, seen = _blame(stop)
    save_file(
        {**{n: t.contiguous() for n, t in piece.batch.items()}, _RANDOM: piece.random},
        place / BATCH,
    )
    passes = [seen]
    if processes.dtype is not None:
        set_random_state(processes.device, piece.random)
        passes.append(replay(stop.module, piece.batch))
    name_of = getattr(stop.task, "sample_names", None)
    return {
        "step": trouble.step,
        "task": stop.task.name,
        "task_class": _path(type(stop.task)),
        "config_class": _path(type(stop.settings)),
        "loss": str(trouble.loss),
        "overflows": trouble.overflows,
        "parameters": list(trouble.parameters),
        "processes": processes.describe(),
        "device": processes.device.type,
        "rank": piece.rank,
        "micro_batch": piece.micro,
        "positions": list(piece.positions),
        "samples": list(name_of(piece.positions)) if name_of else [],
        "passes": [
            {
                "precision": each.precision,
                "loss": str(each.loss),
                "explanation": each.explain(),
                "first": None if each.first is None else dataclasses.asdict(each.first),
            }
            for each in passes
        ],
    }


def _blame(stop: Stop) -> tuple[Piece, Replay]:
    """The first piece that is not finite when it is seen again as it was trained on.

    When none is (the overflow came of summing them, or does not come again) it is the last one.
    """
    found: tuple[Piece, Replay] | None = None
    for piece in _pieces(stop):
        set_random_state(stop.processes.device, piece.random)
        seen = replay(
            stop.module, piece.batch, dtype=stop.processes.dtype, loss_scale=stop.loss_scale
        )
        found = (piece, seen)
        if seen.first is not None:
            break
    assert found is not None
    return found


def _pieces(stop: Stop) -> Iterator[Piece]:
    device = stop.processes.device
    for rank in range(stop.positions.processes):
        positions = dataclasses.replace(stop.positions, rank=rank)
        seed_modules(stop.seed, stop.trouble.step, rank)
        for micro in range(positions.micro_batches):
            numbers = tuple(positions.micro_batch(stop.trouble.step, micro))
            yield Piece(
                rank=rank,
                micro=micro,
                positions=numbers,
                batch=stop.task.batch(numbers),
                random=random_state(device),
            )


def plain(module: nn.Module, averaged: AveragedWeights, weights: dict[str, Tensor]) -> nn.Module:
    """The module itself, or, where its tensors are dealt out, a whole copy with `weights`."""
    if not is_sharded(module):
        return module
    device = next(iter(module.parameters())).device
    names = set(averaged.parameters)
    whole = copy.deepcopy(averaged.module).to(device).train()
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_(name in names)
    snapshot.copy_strict(weights, snapshot.weights(whole), "weights")
    return whole


def random_state(device: torch.device) -> Tensor:
    """The state of the device's generator, uint8."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Put it back; a state of another kind of device is of no use and is left alone."""
    if state.shape != random_state(device).shape:
        return
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _path(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A folder that was read again."""

    folder: Path
    report: dict[str, Any]
    batch: Batch
    random: Tensor
    weights: dict[str, Tensor]


def read(folder: Path) -> Kept:
    """A folder of `keep`, or the newest below a run; UserError when there is none, or damaged."""
    place = folder
    if not (place / REPORT).is_file():
        found = sorted(folder.glob(f"non_finite/step-*/{REPORT}"))
        if not found:
            raise UserError(
                f"{folder} is no folder of a non-finite step: no {REPORT} in it; expected a folder "
                "such as RUN/non_finite/step-00000120, or a run that has one"
            )
        place = found[-1].parent
    problems = files.verify_manifest(place)
    if problems:
        raise UserError(f"{place} is damaged: {'; '.join(problems)}")
    try:
        batch = load_file(place / BATCH)
        weights = load_file(place / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {place}: {error}") from None
    report = json.loads((place / REPORT).read_text("utf-8"))
    random = batch.pop(_RANDOM)
    return Kept(folder=place, report=report, batch=batch, random=random, weights=weights)


def rebuild(kept: Kept) -> Task:
    """The task from its saved settings, without its data; UserError for one that is not ours."""
    task_class = _load(kept, "task_class")
    config_class = _load(kept, "config_class")
    config = configs.load_yaml(config_class, kept.folder / CONFIG)
    task: Task = task_class(config, RunContext(folder=kept.folder, kept=kept.folder))
    return task


def _load(kept: Kept, key: str) -> Any:
    module, _, name = str(kept.report.get(key, "")).partition(":")
    if not module.startswith(_OURS) or not name.isidentifier():
        raise UserError(
            f"{kept.folder / REPORT} names {module}:{name}, which is none of this package's tasks"
        )
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(
            f"this version has no {module}:{name}; open {kept.folder} with the one that wrote it"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a replay in float32 showed."""

    whole: Replay
    losses: list[float] | None
    """Each sample's loss alone."""


def debug(kept: Kept, task: Task, device: torch.device) -> Findings:
    """Replay the batch in float32 with the weights that met it."""
    module = task.module.float().to(device).train()
    snapshot.copy_strict(kept.weights, snapshot.weights(module), "weights")
    task.prepare(device)
    set_random_state(device, kept.random)
    whole = replay(module, kept.batch)
    return Findings(whole=whole, losses=sample_losses(module, kept.batch))
