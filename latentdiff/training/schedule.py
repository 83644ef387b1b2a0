"""The learning rate as a pure function of the optimizer step.

Warm-up, constant, decay (Zhai et al. 2022, arXiv:2106.04560; Hägele et al. 2024,
arXiv:2405.18392, whose 1 - sqrt decay over the last 10 to 20 % is the default): the constant part
knows nothing of the run's length, so a run can be continued, or decayed, from any checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Decay:
    """The steps between which the rate falls to zero, 0 <= start < end; the run ends at `end`."""

    start: int
    end: int

    def __post_init__(self) -> None:
        """A decay of no steps would divide by zero."""
        assert 0 <= self.start < self.end, (self.start, self.end)


def learning_rate_scale(
    step: int, warmup_steps: int, decay: Decay | None, shape: Literal["sqrt", "linear"] = "sqrt"
) -> float:
    """The factor in [0, 1] on the peak rate for the update that makes step `step + 1`.

    Warm-up gives 1/warmup at step 0 and 1 at step warmup - 1. The last update before
    `decay.end` still has a rate above zero; every one from `decay.end` on has zero.
    """
    scale = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if decay is not None and step >= decay.start:
        progress = min(1.0, (step - decay.start) / (decay.end - decay.start))
        scale *= 1.0 - (math.sqrt(progress) if shape == "sqrt" else progress)
    return scale


def decay_over_last(begin: int, steps: int, fraction: float) -> Decay:
    """The decay of a run of `steps` updates from `begin`: its last `fraction`, at least one."""
    length = max(1, round(steps * fraction))
    return Decay(start=begin + steps - length, end=begin + steps)


def decay_within(step: int, steps_per_second: float, seconds_left: float) -> Decay:
    """The decay that begins now and, at the measured rate, ends when the time does."""
    return Decay(start=step, end=step + max(1, int(steps_per_second * seconds_left)))
