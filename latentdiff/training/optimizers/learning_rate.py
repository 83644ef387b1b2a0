"""The learning rate as a pure function of the optimizer step.

Neither the number of processes nor of accumulated micro-batches enters it: the loop counts its own
steps, and no scheduler object is wrapped by accelerate (which would step once for each process).

Warm-up, constant, decay (Zhai et al. 2022, arXiv:2106.04560; Hägele et al. 2024,
arXiv:2405.18392, whose 1 - sqrt decay over the last 10 to 20 % is the default): the constant part
knows nothing of the run's length, so a run can be continued, or decayed, from any checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from latentdiff.training.train_config import TrainConfig

Shape = Literal["sqrt", "linear", "cosine"]


@dataclass(frozen=True)
class Decay:
    """The steps between which the rate falls to zero, 0 <= start < end; the run ends at `end`."""

    start: int
    end: int

    def __post_init__(self) -> None:
        """A decay of no steps would divide by zero."""
        assert 0 <= self.start < self.end, (self.start, self.end)


def learning_rate_scale(
    step: int, warmup_steps: int, decay: Decay | None, shape: Shape = "sqrt"
) -> float:
    """The factor in [0, 1] on the peak rate for the update that makes step `step + 1`.

    Warm-up gives 1/warmup at step 0 and 1 at step warmup - 1. The last update before
    `decay.end` still has a rate above zero; every one from `decay.end` on has zero.
    """
    scale = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if decay is not None and step >= decay.start:
        progress = min(1.0, (step - decay.start) / (decay.end - decay.start))
        if shape == "cosine":
            scale *= (1.0 + math.cos(math.pi * progress)) / 2
        else:
            scale *= 1.0 - (math.sqrt(progress) if shape == "sqrt" else progress)
    return scale


def learning_rate(config: TrainConfig, step: int, decay: Decay | None) -> float:
    """The rate of the update that makes step `step + 1`."""
    shape: Shape = "cosine" if config.lr_schedule == "cosine" else config.decay_shape
    scale = learning_rate_scale(step, config.warmup_steps, decay, shape)
    return config.learning_rate * scale


def decay_share(config: TrainConfig) -> float:
    """The share of the run that decays; 0 where the rate stays, 1 for a decay of its own."""
    if config.decay_from is not None:
        return 1.0
    return 0.0 if config.lr_schedule == "constant" else config.decay_fraction


def planned_decay(config: TrainConfig, begin: int) -> Decay | None:
    """The decay of a run of `config.steps` updates from `begin`, where it is known beforehand."""
    assert config.steps is not None
    if config.lr_schedule == "cosine":
        # Loshchilov & Hutter 2017, eq. 5, one period: from the end of the warm-up to the last step.
        last = begin + config.steps
        return Decay(start=min(max(begin, config.warmup_steps), last - 1), end=last)
    share = decay_share(config)
    return decay_over_last(begin, config.steps, share) if share else None


def decay_over_last(begin: int, steps: int, fraction: float) -> Decay:
    """The decay of a run of `steps` updates from `begin`: its last `fraction`, at least one."""
    length = max(1, round(steps * fraction))
    return Decay(start=begin + steps - length, end=begin + steps)


def decay_within(step: int, steps_per_second: float, seconds_left: float) -> Decay:
    """The decay that begins now and, at the measured rate, ends when the time does."""
    return Decay(start=step, end=step + max(1, int(steps_per_second * seconds_left)))
