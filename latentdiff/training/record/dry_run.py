"""What a run would do, as text: settings, sizes, and the learning rate along the way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import yaml
from torch import nn

from latentdiff.checkpoints.store import read_state
from latentdiff.config import to_dict
from latentdiff.training.optimizers.learning_rate import decay_share, learning_rate, planned_decay
from latentdiff.training.task import Task
from latentdiff.training.train_config import TrainConfig


def describe_run(task: Task, config: TrainConfig, settings: object, run_dir: Path) -> str:
    """The text of --dry-run; touches neither the disk nor the data."""
    return "\n".join(
        [
            f"run folder: {run_dir}",
            yaml.safe_dump(to_dict(settings), sort_keys=False).rstrip(),
            "",
            "parameters:",
            *_parameters(task.module),
            "",
            "learning rate:",
            *_learning_rate(config),
        ]
    )


def _parameters(module: nn.Module) -> list[str]:
    trained: Counter[str] = Counter()
    frozen: Counter[str] = Counter()
    for name, parameter in module.named_parameters():
        (trained if parameter.requires_grad else frozen)[name.split(".")[0]] += parameter.numel()
    rows = [
        f"  {child:<24} {trained[child]:>13,} trained {frozen[child]:>13,} frozen"
        for child in dict.fromkeys([*trained, *frozen])
    ]
    total = f"  {'all':<24} {trained.total():>13,} trained {frozen.total():>13,} frozen"
    return [*rows, total]


def _learning_rate(config: TrainConfig) -> list[str]:
    branch = config.continue_from or config.decay_from
    begin = read_state(branch).step if branch else 0
    if config.steps is None:
        minutes = config.max_minutes
        when = (
            "the end" if minutes is None else f"{(1 - decay_share(config)) * minutes:.1f} minutes"
        )
        return [
            f"  {config.learning_rate:g} after {config.warmup_steps} steps of warm-up; the decay "
            f"begins at {when} and its length is the measured rate times the time left"
        ]
    decay = planned_decay(config, begin)
    last = begin + config.steps
    marks = {begin, begin + config.warmup_steps, last - 1}
    if decay is not None:
        marks |= {decay.start, (decay.start + last) // 2}
    return [
        f"  step {step:>9,}  {learning_rate(config, step, decay):.3e}"
        for step in sorted(mark for mark in marks if begin <= mark < last)
    ]
