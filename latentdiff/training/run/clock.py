"""When a run ends: by steps, by wall time, or by whichever comes first.

With a time limit and no step count, the end is not known until it is measured: when
(1 - decay_fraction) of the time is used, the rate so far fixes the decay's steps once and for all.
They are recorded, so the learning rate stays a pure function of the step.
"""

from __future__ import annotations

import time
from collections import deque

from latentdiff.training.optimizers.learning_rate import (
    Decay,
    decay_share,
    decay_within,
    planned_decay,
)
from latentdiff.training.train_config import TrainConfig

HARD_LIMIT = 1.1  # times max_minutes: a run that its measured rate misled stops here
_SETTLED = 5  # updates of a sitting before its rate is believed (compiling, warming up)
_WINDOW, _SPACING = 180.0, 0.5  # seconds over which the rate is taken, and between marks
_MARGIN = 0.98


class RunClock:
    """Counts updates against the wall and keeps the decay's bounds."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        began: float,
        step: int,
        begin_step: int,
        minutes_before: float,
        recorded: Decay | None,
    ) -> None:
        self._config, self._began, self._first_step = config, began, step
        self._minutes_before, self.begin_step = minutes_before, begin_step
        self._marks: deque[tuple[float, int]] = deque()
        self.closing_seconds = 0.0  # the last validation, sheet and checkpoint took this long
        # A decay alone takes all its steps; by time it begins once a rate has been measured.
        self.fraction = 0.9 if config.decay_from is not None else decay_share(config)
        self.decay = recorded
        self.end = recorded.end if recorded else None
        if config.steps is not None and (recorded is None or step <= recorded.start):
            self.end = begin_step + config.steps
            self.decay = planned_decay(config, begin_step)

    def minutes(self) -> float:
        """Wall time used by the run, over all sittings."""
        return self._minutes_before + (time.monotonic() - self._began) / 60

    def tick(self, step: int) -> None:
        """Called after every update."""
        now = time.monotonic()
        marks = self._marks
        if step - self._first_step < _SETTLED or (marks and now - marks[-1][0] < _SPACING):
            return
        marks.append((now, step))
        while now - marks[0][0] > _WINDOW:
            marks.popleft()

    def steps_per_second(self, step: int) -> float:
        """The rate of the last minutes, interruptions included, first updates left out."""
        since, first = self._marks[0] if self._marks else (self._began, self._first_step)
        if step <= first:
            since, first = self._began, self._first_step
        return (step - first) / max(1e-9, time.monotonic() - since)

    def seconds_left(self, step: int) -> float | None:
        """Until the end that is known so far; never more than the time limit leaves."""
        left = None
        if self.end is not None:
            rate = self.steps_per_second(step)
            left = (self.end - step) / rate if rate > 0 else None
        if self._config.max_minutes is not None:
            limit = max(0.0, self._config.max_minutes - self.minutes()) * 60
            left = limit if left is None else min(left, limit)
        return left

    def plan(self, step: int) -> bool:
        """Fix the decay's bounds if it is time to; whether they are new."""
        limit = self._config.max_minutes
        begun = self.decay is not None and step >= self.decay.start
        if limit is None or begun or not self.fraction or step == self._first_step:
            return False
        used = self.minutes()
        left = (limit - used) * 60 - self.closing_seconds
        if used < (1 - self.fraction) * limit:
            return False
        rate = self.steps_per_second(step)
        if self.end is not None and self.end - step <= rate * left:
            return False  # `steps` will be done within the time
        self.fix(decay_within(step, rate, max(0.0, left) * _MARGIN))
        return True

    def fix(self, decay: Decay) -> None:
        """Take these bounds; the run ends where the decay does."""
        self.decay, self.end = decay, decay.end

    def out_of_time(self) -> bool:
        """Past the limit (without a decay), or so far past it that waiting for the end is wrong."""
        limit = self._config.max_minutes
        if limit is None:
            return False
        return self.minutes() >= limit * (HARD_LIMIT if self.fraction else 1.0)
