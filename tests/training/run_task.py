"""Runs and tasks without their ceremony: for tests that hold the task in their hands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentdiff.training.context import RunContext
from latentdiff.training.record.run_folder import default_path
from latentdiff.training.run import loop
from latentdiff.training.task import Task
from latentdiff.training.train_config import TrainConfig

_OPEN: set[int] = set()


def run_task(task: Task, config: TrainConfig, *, settings: object = None) -> loop.RunResult:
    """`loop.run` of a task that was built before; one that is open already stays as it is."""
    if id(task) in _OPEN:
        task.open_data = lambda context: None  # type: ignore[method-assign]
    return loop.run(lambda context: task, config, name=task.name, settings=settings)


def opened(kind: Any, config: Any, *, context: RunContext | None = None, **more: Any) -> Any:
    """A task as a run of one process builds it, with its data."""
    folder: Path = default_path(config.train, kind.name)
    context = context or RunContext(folder=folder)
    task = kind(config, context, **more)
    task.open_data(context)
    _OPEN.add(id(task))
    return task
