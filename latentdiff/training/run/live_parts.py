"""The live parts of a run, in the order in which they must come to life."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from latentdiff.checkpoints import store as checkpoints
from latentdiff.training.logging import Progress, RunLog
from latentdiff.training.optimizers.ema import AveragedWeights
from latentdiff.training.optimizers.guarded_step import allocate, build_optimizer
from latentdiff.training.optimizers.learning_rate import Decay
from latentdiff.training.optimizers.loss_scale import LossScale
from latentdiff.training.positions import Positions
from latentdiff.training.record import environment
from latentdiff.training.record.run_folder import RunFolder
from latentdiff.training.run import snapshot
from latentdiff.training.run.batches import batches, fit_workers, shared_memory_free
from latentdiff.training.run.beginning import Beginning
from latentdiff.training.run.clock import RunClock
from latentdiff.training.run.processes import Processes, ema_device
from latentdiff.training.task import Batch, Task
from latentdiff.training.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What learns: the module as the loop calls it, its average, its optimizer."""

    model: nn.Module
    averaged: AveragedWeights
    optimizer: torch.optim.Optimizer
    loss_scale: LossScale | None


def batch_stream(
    task: Task, config: TrainConfig, positions: Positions, *, pin_memory: bool, progress: Progress
) -> Iterator[Batch]:
    """The run's batches; its workers are forked here, before the module touches the GPU."""
    workers, prefetch = config.num_workers, config.prefetch
    if workers:
        workers, prefetch = fit_workers(task, positions, workers, prefetch, shared_memory_free())
        if (workers, prefetch) != (config.num_workers, config.prefetch):
            progress.say(
                f"/dev/shm is small: {workers} data workers with {prefetch} batches ahead, "
                f"not {config.num_workers} with {config.prefetch}"
            )
    return batches(task, positions, num_workers=workers, prefetch=prefetch, pin_memory=pin_memory)


def learner(task: Task, config: TrainConfig, processes: Processes, beginning: Beginning) -> Learner:
    """Module, averaged weights and optimizer on the device, with the checkpoint's state."""
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
        muon_weight_decay=config.muon_weight_decay,
    )
    loss_scale = LossScale(processes.device) if processes.dtype == torch.float16 else None
    if beginning.source is not None:
        begun = checkpoints.load(beginning.source)
        snapshot.restore(begun, module, averaged, optimizer, loss_scale)
    else:
        allocate(optimizer)
    task.prepare(processes.device)
    if config.compile:
        module.compile(mode=config.compile, dynamic=False)
    return Learner(
        model=processes.wrap(module),
        averaged=averaged,
        optimizer=optimizer,
        loss_scale=loss_scale,
    )


def clock(config: TrainConfig, beginning: Beginning, began: float, progress: Progress) -> RunClock:
    """Counts updates and minutes from where the run goes on."""
    step = beginning.positions.begin_step
    state = beginning.state if config.resume else None
    recorded = None
    if state is not None and state.decay_start is not None:
        assert state.decay_end is not None
        recorded = Decay(state.decay_start, state.decay_end)
        _say_if_it_ends_elsewhere(config, state.begin_step, step, recorded, progress)
    return RunClock(
        config,
        began=began,
        step=step,
        begin_step=state.begin_step if state else step,
        minutes_before=state.minutes if state else 0.0,
        recorded=recorded,
    )


def open_log(
    config: TrainConfig, folder: RunFolder, step: int, stack: ExitStack, **facts: Any
) -> RunLog:
    """The run's log, begun with how it was started; `stack` closes it."""
    log = RunLog(folder.log, folder.tensorboard if config.tensorboard else None, step=step)
    stack.callback(log.close)
    log.write(
        "begin",
        step,
        **facts,
        command=environment.command(),
        environment=environment.describe(),
    )
    return log


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


def to_channels_last(module: nn.Module) -> None:
    """Lay every convolution's weights out as NHWC, in place."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
