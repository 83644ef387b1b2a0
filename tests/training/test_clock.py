"""The time left that a run shows."""

import time

import pytest

from latentdiff.training.run.clock import RunClock
from latentdiff.training.train_config import TrainConfig


def clock(began: float, **limits: object) -> RunClock:
    config = TrainConfig(**limits)  # type: ignore[arg-type]
    return RunClock(config, began=began, step=0, begin_step=0, minutes_before=0.0, recorded=None)


def test_the_time_left_never_promises_more_than_the_limit() -> None:
    began = time.monotonic() - 30  # one update in half a minute, ten thousand asked for
    assert clock(began, steps=10_000, max_minutes=1.0).seconds_left(1) == pytest.approx(30, abs=5)
    assert clock(began - 60, steps=10_000, max_minutes=1.0).seconds_left(1) == 0
    assert clock(began, steps=2, max_minutes=60.0).seconds_left(1) == pytest.approx(30, abs=5)
    assert clock(began, max_minutes=1.0).seconds_left(0) == pytest.approx(30, abs=5)
    assert clock(began, steps=10).seconds_left(0) is None
