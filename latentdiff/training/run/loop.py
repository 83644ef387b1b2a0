"""The training loop: `run(task, config)` trains, whatever the task, wherever it stands.

Time counts from the call of `run`, compiling included, and is summed over resumed sittings. The
run ends when its decay does; the last validation, sheet and checkpoint come after that.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.errors import UserError
from latentdiff.training.launch import rank
from latentdiff.training.logging import Progress, RunLog
from latentdiff.training.optimizers.ema import AveragedWeights
from latentdiff.training.optimizers.guarded_step import allocate, build_optimizer
from latentdiff.training.optimizers.learning_rate import Decay
from latentdiff.training.optimizers.loss_scale import LossScale
from latentdiff.training.record import environment
from latentdiff.training.record.dry_run import describe_run
from latentdiff.training.record.run_folder import RunFolder, default_path
from latentdiff.training.record.run_report import NAME as REPORT
from latentdiff.training.run import agreement, snapshot
from latentdiff.training.run.clock import RunClock
from latentdiff.training.run.positions import Positions, batches, fit_workers, shared_memory_free
from latentdiff.training.run.processes import Processes, ema_device, refuse_absent, start
from latentdiff.training.run.signals import StopSignals
from latentdiff.training.run.trainer import Stopped, Trainer
from latentdiff.training.task import Task
from latentdiff.training.train_config import TrainConfig


@dataclass(frozen=True)
class RunResult:
    """How a run ended and what it left."""

    run_dir: Path
    stopped: Stopped | str
    """"finished", "time" (the hard limit), "interrupted" (a signal), "paused" (stop_at) or
    "dry run"."""
    step: int = 0
    positions: int = 0
    minutes: float = 0.0
    samples_per_second: float = 0.0
    signal: int = 0
    checkpoint: Path | None = None
    export: Path | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Means over the last log interval, such as "loss"."""
    validation: dict[str, float] = field(default_factory=dict)


def run(task: Task, config: TrainConfig, *, settings: object | None = None) -> RunResult:
    """Train `task`; `settings` is the whole config that is saved with the run (default: `config`).

    Raises UserError for what the user can mend, NonFiniteError (a UserError) when a loss or
    gradient is not finite.
    """
    began = time.monotonic()
    settings = config if settings is None else settings
    folder = RunFolder(default_path(config, task.name))
    config = after_restart(config, folder)
    processes = start(config)
    if processes.is_main:
        print(f"{task.name}: {processes.describe()}", flush=True)
    if config.dry_run:
        if processes.is_main:
            print(describe_run(task, config, settings, folder.path))
        return RunResult(run_dir=folder.path, stopped="dry run")
    if config.steps is None and config.max_minutes is None:
        raise UserError("neither steps nor max_minutes is set; give --steps N or --max-minutes M")
    with ExitStack() as stack:
        if processes.is_main:
            stack.enter_context(files.FolderLock(folder.path))
            folder.clear_interrupted_writes()
        trainer = _build(task, config, settings, folder, processes, began, stack)
        # Before this a signal ends the process at once: there is nothing to save yet.
        signals = stack.enter_context(StopSignals())
        stopped = trainer.fit(_caught(signals))
        mine = agreement.account(processes, task.module, trainer.positions, trainer.step)
        accounts = agreement.gather(processes, mine)
        if trainer.log is not None:
            trainer.log.write("end", trainer.step, stopped=stopped, processes=accounts)
            trainer.looks.report(trainer.step)
        result = _result(trainer, stopped, signals.caught)
        if processes.is_main:
            trainer.progress.say(_farewell(task, result))
        return result


def refuse_early(config: TrainConfig, task_name: str) -> None:
    """What would end the run in a moment, found before a task reads its networks and data.

    Raises UserError: the folder holds another run, or nothing to resume, or is in use; the machine
    lacks the device or the precision.
    """
    folder = RunFolder(default_path(config, task_name))
    config = after_restart(config, folder)
    if config.dry_run or rank():
        return
    refuse_absent(config)
    if folder.path.is_dir():
        with files.FolderLock(folder.path):
            pass
    if not config.resume:
        folder.refuse_if_used()
    elif not checkpoints.stored(folder.checkpoints):
        folder.newest_checkpoint()


def after_restart(config: TrainConfig, folder: RunFolder) -> TrainConfig:
    """Under `torchrun --max-restarts`, the same command once more goes on with what it left."""
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if not again or config.resume or not checkpoints.stored(folder.checkpoints):
        return config
    return dataclasses.replace(
        config, resume=True, init_from=None, continue_from=None, decay_from=None
    )


def _caught(signals: StopSignals) -> Iterator[int]:
    while True:
        yield signals.caught


def _build(
    task: Task,
    config: TrainConfig,
    settings: object,
    folder: RunFolder,
    processes: Processes,
    began: float,
    stack: ExitStack,
) -> Trainer:
    """Everything live, in the order in which it must come to life."""
    progress = Progress(task.name, shown=processes.is_main, step=0)
    stack.callback(progress.close)
    processes.check_same("the training data", getattr(task, "fingerprint", ""))
    source = _source(config, folder, progress)
    processes.check_same("checkpoints", source.name[-12:] if source else "none")
    if processes.is_main:
        _claim(task, config, settings, folder, progress)
        if config.resume and source is not None:
            checkpoints.set_aside_newer(folder.checkpoints, source)
    _initial_weights(task, config)
    begun = checkpoints.load(source) if source else None
    state = begun.state if begun else None
    if state is not None and state.task != task.name:
        raise UserError(f"{source} is a checkpoint of the task {state.task}, not of {task.name}")
    if config.resume and state is not None and state.seed != config.seed:
        raise UserError(
            f"the run was begun with --seed {state.seed}, not {config.seed}; resume with that seed"
        )
    step = state.step if state else 0
    positions = Positions(
        begin_step=step,
        begin_position=state.positions if state else 0,
        batch_size=config.batch_size,
        micro_batches=config.gradient_accumulation,
        processes=processes.count,
        rank=processes.rank,
    )
    workers, prefetch = config.num_workers, config.prefetch
    if workers:
        workers, prefetch = fit_workers(task, positions, workers, prefetch, shared_memory_free())
        if (workers, prefetch) != (config.num_workers, config.prefetch):
            progress.say(
                f"/dev/shm is small: {workers} data workers with {prefetch} batches ahead, "
                f"not {config.num_workers} with {config.prefetch}"
            )
    # Workers are forked here, before the module touches the GPU.
    stream = batches(
        task,
        positions,
        num_workers=workers,
        prefetch=prefetch,
        pin_memory=processes.device.type == "cuda",
    )
    module = task.module.to(processes.device).train()
    if config.channels_last:
        to_channels_last(module)
    averaged = AveragedWeights(
        module,
        config.ema_decay,
        every=config.ema_every,
        device=ema_device(config, processes),
    )
    processes.shard(module)
    averaged.follow(module)
    optimizer = build_optimizer(
        module,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=config.betas,
        kind=config.optimizer,
        muon_learning_rate=config.muon_learning_rate,
    )
    loss_scale = LossScale(processes.device) if processes.dtype == torch.float16 else None
    if begun is not None:
        snapshot.restore(begun, module, averaged, optimizer, loss_scale)
    else:
        allocate(optimizer)
    task.prepare(processes.device)
    if config.compile:
        module.compile(mode=config.compile, dynamic=False)
    model = processes.wrap(module)
    recorded = None
    if config.resume and state is not None and state.decay_start is not None:
        assert state.decay_end is not None
        recorded = Decay(state.decay_start, state.decay_end)
        _say_if_it_ends_elsewhere(config, state.begin_step, step, recorded, progress)
    clock = RunClock(
        config,
        began=began,
        step=step,
        begin_step=state.begin_step if config.resume and state else step,
        minutes_before=state.minutes if config.resume and state else 0.0,
        recorded=recorded,
    )
    log = None
    if processes.is_main:
        tensorboard = folder.tensorboard if config.tensorboard else None
        log = RunLog(folder.log, tensorboard, step=step)
        stack.callback(log.close)
        log.write(
            "begin",
            step,
            how=processes.describe(),
            source=str(source or ""),
            command=environment.command(),
            environment=environment.describe(),
        )
    return Trainer(
        task=task,
        config=config,
        settings=settings,
        processes=processes,
        folder=folder,
        model=model,
        averaged=averaged,
        optimizer=optimizer,
        loss_scale=loss_scale,
        positions=positions,
        stream=stream,
        clock=clock,
        log=log,
        progress=progress,
    )


def _source(config: TrainConfig, folder: RunFolder, progress: Progress) -> Path | None:
    """The checkpoint whose whole state is taken over, if any; what was passed over is said."""
    if not config.resume:
        return config.continue_from or config.decay_from
    found = folder.newest_checkpoint()
    for skipped in found.skipped:
        progress.say(f"passed over a damaged checkpoint, {skipped}")
    progress.say(f"resuming from {found.path}")
    return found.path


def _say_if_it_ends_elsewhere(
    config: TrainConfig, begin_step: int, step: int, decay: Decay, progress: Progress
) -> None:
    """A decay that has begun is not stretched: the rates of its first steps have been used."""
    wanted = begin_step + (config.steps or 0)
    if config.steps is not None and step > decay.start and wanted != decay.end:
        progress.say(
            f"the decay of the learning rate has begun and ends at step {decay.end}, not {wanted}; "
            f"to go on from before it, --continue-from the checkpoint of step {decay.start}"
        )


def _claim(
    task: Task, config: TrainConfig, settings: object, folder: RunFolder, progress: Progress
) -> None:
    """Make the folder this run's: refuse another's or other data, clear interrupted writes."""
    if not config.resume:
        folder.refuse_if_used()
    for path in (folder.path, folder.checkpoints, folder.sheets):
        path.mkdir(parents=True, exist_ok=True)
    fingerprint = getattr(task, "fingerprint", "")
    if fingerprint:
        folder.save_data(getattr(task, "summary", {}), fingerprint, resume=config.resume)
    changes = folder.save_config(settings)
    if config.resume and changes:
        progress.say(f"settings changed since the last sitting: {'; '.join(changes)}")


def _initial_weights(task: Task, config: TrainConfig) -> None:
    """Weights only: a checkpoint's average, a run's export, or an export folder."""
    source = config.init_from
    if source is None:
        return
    if not source.is_dir():
        raise UserError(f"no folder at {source}; init_from takes a checkpoint, a run or an export")
    if (source / checkpoints.EMA).is_file():
        ema = checkpoints.load(source)
        snapshot.copy_strict({**ema.weights, **ema.ema}, snapshot.weights(task.module), "weights")
    else:
        export = source / "export"
        task.initialise(export if export.is_dir() else source)


def _result(trainer: Trainer, stopped: Stopped, signal: int) -> RunResult:
    folder = trainer.folder
    return RunResult(
        run_dir=folder.path,
        stopped=stopped,
        step=trainer.step,
        positions=trainer.positions_seen,
        minutes=trainer.clock.minutes(),
        samples_per_second=trainer.clock.steps_per_second(trainer.step) * trainer.config.batch_size,
        signal=signal,
        checkpoint=trainer.saved[1] if trainer.saved else None,
        export=folder.export,
        metrics=trainer.metrics,
        validation=trainer.validation,
    )


def _farewell(task: Task, result: RunResult) -> str:
    how = {
        "finished": "done",
        "time": "stopped at the time limit, before its decay had ended",
        "interrupted": "interrupted; --resume goes on from here",
        "paused": "stopped as asked; --resume goes on from here",
    }[result.stopped]
    line = (
        f"{task.name}: {how}: step {result.step}, {result.positions:,} samples, "
        f"{result.minutes:.1f} minutes; checkpoint {result.checkpoint}, weights {result.export}"
    )
    report = result.run_dir / REPORT
    line += f"\nhow it went: {report}" if report.is_file() else ""
    if result.stopped in ("finished", "time") and hasattr(task, "try_out"):
        line += f"\ntry it: {task.try_out(result.export)}"
    return line


def to_channels_last(module: nn.Module) -> None:
    """Lay every convolution's weights out as NHWC, in place."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
