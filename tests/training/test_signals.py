"""Stop signals: asked once, asked twice, and in the middle of work that may be cut short."""

from __future__ import annotations

import dataclasses
import os
import signal
import time

import pytest
from regressor import RegressorTask
from run_task import run_task
from tiny_runs import TRAIN, bits, noted

from latentdiff.training.run import trainer
from latentdiff.training.run.signals import StopSignals, until_stopped

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)


def ask(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def for_ever() -> None:
    ask()
    time.sleep(60)
    raise AssertionError("it was not cut short")


def test_a_signal_is_noted_and_asking_twice_stops_at_once():
    before = [signal.getsignal(number) for number in CAUGHT]
    with StopSignals() as signals:
        ask()
        assert signals.caught == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            ask(signal.SIGINT)
    assert [signal.getsignal(number) for number in CAUGHT] == before


def test_a_hang_up_stops_like_a_signal_unless_the_run_was_told_to_stay():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with StopSignals() as signals:
            ask(signal.SIGHUP)
            assert signals.caught == signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with StopSignals() as signals:
            ask(signal.SIGHUP)
            assert not signals.caught
    finally:
        signal.signal(signal.SIGHUP, before)


def test_work_is_cut_short_and_no_more_is_begun():
    done = []
    with StopSignals() as signals:
        assert until_stopped(lambda: done.append(1))
        assert not until_stopped(for_ever)
        assert signals.caught == signal.SIGTERM
        assert not until_stopped(lambda: done.append(2))
    assert done == [1]


def test_within_its_grace_work_comes_to_its_end():
    done = []
    with StopSignals() as signals:
        assert until_stopped(lambda: (ask(), done.append(1)), grace=30.0)
        assert signals.caught and done == [1]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with StopSignals():
        assert not until_stopped(for_ever, grace=0.05)


def test_an_alarm_that_comes_late_disturbs_nothing():
    with StopSignals():
        until_stopped(ask, grace=0.01)
        time.sleep(0.05)


def test_without_a_run_work_is_just_done():
    done = []
    assert until_stopped(lambda: done.append(1)) and done == [1]


def test_an_update_without_end_is_given_up_and_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "_GRACE", 0.05)
    config = dataclasses.replace(TRAIN, run_dir=tmp_path / "b", gradient_accumulation=2)
    task, forwards = RegressorTask(), []

    def hang_in_the_second_half(module, inputs, outputs):
        forwards.append(module.training)
        if len(forwards) == 2 * 7 + 2:  # batch statistics have moved twice, gradients once
            for_ever()

    task.module.last.register_forward_hook(hang_in_the_second_half)
    result = run_task(task, config)
    assert (result.stopped, result.step) == ("interrupted", 7)
    seen: list[list[int]] = []
    run_task(noted(RegressorTask(), seen.append), dataclasses.replace(config, resume=True))
    assert seen[0] == [7 * 4, 7 * 4 + 1]
    run_task(RegressorTask(), dataclasses.replace(config, run_dir=tmp_path / "a"))
    assert bits(tmp_path / "a", 20) == bits(tmp_path / "b", 20)
