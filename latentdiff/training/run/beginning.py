"""Where a run begins: its folder claimed, its checkpoint found, its positions counted from there.

All of this comes before the task is built, so that what would stop the run in a moment (another
run's folder, nothing to resume, a lock) is found before networks and data are read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from latentdiff.checkpoints import store as checkpoints
from latentdiff.checkpoints.state import TrainState
from latentdiff.errors import UserError
from latentdiff.training.positions import Positions
from latentdiff.training.record.run_folder import RunFolder
from latentdiff.training.run import snapshot
from latentdiff.training.run.processes import Processes
from latentdiff.training.task import Task
from latentdiff.training.train_config import TrainConfig

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a run goes on from.

    source: the checkpoint, and state what it says of its run; None for a run that starts with the
    task's own weights. positions: which samples are seen from there on.
    """

    source: Path | None
    state: TrainState | None
    positions: Positions


def after_restart(config: TrainConfig, folder: RunFolder) -> TrainConfig:
    """Under `torchrun --max-restarts`, the same command once more goes on with what it left."""
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if not again or config.resume or not checkpoints.stored(folder.checkpoints):
        return config
    return dataclasses.replace(
        config, resume=True, init_from=None, continue_from=None, decay_from=None
    )


def begin(
    config: TrainConfig, name: str, folder: RunFolder, processes: Processes, say: Say
) -> Beginning:
    """Refuse a folder that is another run's, and find what the run goes on from.

    The main process holds the folder's lock. Raises UserError for another run's checkpoint, a
    checkpoint of another task or seed, and nothing to resume.
    """
    if processes.is_main:
        folder.clear_interrupted_writes()
        if not config.resume:
            folder.refuse_if_used()
    if config.init_from is not None and not config.init_from.is_dir():
        raise UserError(
            f"no folder at {config.init_from}; init_from takes a checkpoint, a run or an export"
        )
    source = _source(config, folder, say)
    processes.check_same("checkpoints", source.name[-12:] if source else "none")
    if processes.is_main and config.resume and source is not None:
        checkpoints.set_aside_newer(folder.checkpoints, source)
    state = checkpoints.read_state(source) if source else None
    if state is not None and state.task != name:
        raise UserError(f"{source} is a checkpoint of the task {state.task}, not of {name}")
    if config.resume and state is not None and state.seed != config.seed:
        raise UserError(
            f"the run was begun with --seed {state.seed}, not {config.seed}; resume with that seed"
        )
    positions = Positions(
        begin_step=state.step if state else 0,
        begin_position=state.positions if state else 0,
        batch_size=config.batch_size,
        micro_batches=config.gradient_accumulation,
        processes=processes.count,
        rank=processes.rank,
    )
    return Beginning(source=source, state=state, positions=positions)


def _source(config: TrainConfig, folder: RunFolder, say: Say) -> Path | None:
    """The checkpoint whose whole state is taken over, if any; what was passed over is printed."""
    if not config.resume:
        return config.continue_from or config.decay_from
    found = folder.newest_checkpoint()
    for skipped in found.skipped:
        say(f"passed over a damaged checkpoint, {skipped}")
    say(f"resuming from {found.path}")
    return found.path


def record_settings(
    task: Task, config: TrainConfig, settings: object, folder: RunFolder, say: Say
) -> None:
    """Write the run's config and what it learns from; UserError when it resumes with other data."""
    for path in (folder.path, folder.checkpoints, folder.sheets):
        path.mkdir(parents=True, exist_ok=True)
    fingerprint = getattr(task, "fingerprint", "")
    if fingerprint:
        folder.save_data(getattr(task, "summary", {}), fingerprint, resume=config.resume)
    changes = folder.save_config(settings)
    if config.resume and changes:
        say(f"settings changed since the last sitting: {'; '.join(changes)}")


def initial_weights(task: Task, config: TrainConfig) -> None:
    """Weights only: a checkpoint's average, a run's export, or an export folder."""
    source = config.init_from
    if source is None:
        return
    if (source / checkpoints.EMA).is_file():
        ema = checkpoints.load(source)
        snapshot.copy_strict({**ema.weights, **ema.ema}, snapshot.weights(task.module), "weights")
    else:
        export = source / "export"
        task.initialise(export if export.is_dir() else source)
