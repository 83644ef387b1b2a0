"""The training loop: `run(build_task, config)` trains, whatever the task, wherever it stands.

First the run: processes, folder and lock, the checkpoint it goes on from. Then the task, which is
told of them, and its data. Then the updates. Time counts from the call of `run`, compiling
included, and is summed over resumed sittings. The run ends when its decay does; the last
validation, sheet and checkpoint come after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from latentdiff import devices, files
from latentdiff.errors import UserError
from latentdiff.progress import stage
from latentdiff.training.context import RunContext
from latentdiff.training.logging import Progress
from latentdiff.training.record.dry_run import describe_run
from latentdiff.training.record.run_folder import RunFolder, default_path
from latentdiff.training.record.run_report import NAME as REPORT
from latentdiff.training.run import agreement, live_parts
from latentdiff.training.run.beginning import (
    Beginning,
    after_restart,
    begin,
    initial_weights,
    record_settings,
)
from latentdiff.training.run.processes import Processes, start
from latentdiff.training.run.signals import StopSignals
from latentdiff.training.run.trainer import Stopped, Trainer
from latentdiff.training.task import Task
from latentdiff.training.train_config import TrainConfig

BuildTask = Callable[[RunContext], Task]


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


def run(
    build_task: BuildTask, config: TrainConfig, *, name: str, settings: object | None = None
) -> RunResult:
    """Train the task called `name`; `settings` is the whole config that is saved with the run.

    A dry run builds the task's networks, reads no image and writes nothing.
    Raises UserError for what the user can mend, NonFiniteError (a UserError) when a loss or
    gradient is not finite.
    """
    began = time.monotonic()
    settings = config if settings is None else settings
    folder = RunFolder(default_path(config, name))
    config = after_restart(config, folder)
    processes = start(config)
    if processes.is_main:
        print(f"{name}: {processes.describe()}", flush=True)
        slow = processes.dtype and devices.slow_dtype_note(processes.dtype, processes.device)
        if slow:
            print(f"{name}: slow: {slow}", flush=True)
    if config.dry_run:
        if processes.is_main:
            task = build_task(RunContext(folder=folder.path))
            print(describe_run(task, config, settings, folder.path))
        return RunResult(run_dir=folder.path, stopped="dry run")
    if config.steps is None and config.max_minutes is None:
        raise UserError("neither steps nor max_minutes is set; give --steps N or --max-minutes M")
    with _opened(build_task, config, name, settings, processes, folder, began) as trainer:
        return _fit(trainer)


@contextmanager
def trainer_of(
    build_task: BuildTask, config: TrainConfig, *, name: str, settings: object | None = None
) -> Iterator[Trainer]:
    """The same run, opened and not begun, for whoever calls `Trainer.fit` in his own time."""
    began = time.monotonic()
    folder, processes = RunFolder(default_path(config, name)), start(config)
    settings = config if settings is None else settings
    with _opened(build_task, config, name, settings, processes, folder, began) as trainer:
        yield trainer


@contextmanager
def _opened(
    build_task: BuildTask,
    config: TrainConfig,
    name: str,
    settings: object,
    processes: Processes,
    folder: RunFolder,
    began: float,
) -> Iterator[Trainer]:
    """The run's folder held, its data open, everything live."""
    with ExitStack() as stack:
        if processes.is_main:
            stack.enter_context(files.FolderLock(folder.path))
        say = print_on_main(processes)
        beginning = begin(config, name, folder, processes, say)
        context = RunContext(
            folder=folder.path,
            device=processes.device,
            team=processes.team(),
            positions=beginning.positions,
        )
        with stage(f"{name}: building the networks"):
            task = build_task(context)
        with stage(f"{name}: reading the data"):
            task.open_data(context)
        processes.check_same("the training data", getattr(task, "fingerprint", ""))
        if processes.is_main:
            record_settings(task, config, settings, folder, say)
        initial_weights(task, config)
        yield _trainer(task, config, settings, folder, processes, beginning, began, stack)


def print_on_main(processes: Processes) -> Callable[[str], None]:
    """Prints a line on the main process, and nothing on the others."""
    if processes.is_main:
        return lambda text: print(text, flush=True)
    return lambda text: None


def _trainer(
    task: Task,
    config: TrainConfig,
    settings: object,
    folder: RunFolder,
    processes: Processes,
    beginning: Beginning,
    began: float,
    stack: ExitStack,
) -> Trainer:
    """Everything live."""
    progress = Progress(task.name, shown=processes.is_main, step=0)
    stack.callback(progress.close)
    positions = beginning.positions
    stream = live_parts.batch_stream(
        task,
        config,
        positions,
        pin_memory=processes.device.type == "cuda",
        progress=progress,
    )
    learner = live_parts.learner(task, config, processes, beginning)
    clock = live_parts.clock(config, beginning, began, progress)
    log = None
    if processes.is_main:
        log = live_parts.open_log(
            config,
            folder,
            positions.begin_step,
            stack,
            how=processes.describe(),
            source=str(beginning.source or ""),
        )
    return Trainer(
        task=task,
        config=config,
        settings=settings,
        processes=processes,
        folder=folder,
        learner=learner,
        positions=positions,
        stream=stream,
        clock=clock,
        log=log,
        progress=progress,
    )


def _fit(trainer: Trainer) -> RunResult:
    """Update to the end, a limit or a signal, and say how it went."""
    # Before this a signal ends the process at once: there is nothing to save yet.
    with StopSignals() as signals:
        stopped = trainer.fit(_caught(signals))
        processes, task = trainer.processes, trainer.task
        mine = agreement.account(processes, task.module, trainer.positions, trainer.step)
        accounts = agreement.gather(processes, mine)
        if trainer.log is not None:
            trainer.log.write("end", trainer.step, stopped=stopped, processes=accounts)
            trainer.evaluator.report(trainer.step)
        result = _result(trainer, stopped, signals.caught)
        if processes.is_main:
            trainer.progress.say(_farewell(task, result))
    return result


def _caught(signals: StopSignals) -> Iterator[int]:
    while True:
        yield signals.caught


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
        "time": (
            "stopped at the time limit, before all that was planned was done and the learning rate "
            "had come down; --resume with a larger --max-minutes goes on from here"
        ),
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
