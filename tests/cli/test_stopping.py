"""Ctrl-C, wherever it falls: one line, exit code 130."""

import os
import signal
import sys

import pytest

from latentdiff.cli import main


@pytest.fixture
def interrupts(monkeypatch):
    for name in ("stdout", "stderr"):  # which the entry point replaces
        monkeypatch.setattr(sys, name, getattr(sys, name))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_a_library_made_another_error_of_is_still_one(
    interrupts, monkeypatch, capsys
):
    def interrupted_import(argv):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise RecursionError from None

    monkeypatch.setattr(main, "run", interrupted_import)
    with pytest.raises(SystemExit) as stop:
        main.entry_point()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "latentdiff: stopped\n"


def test_an_error_without_an_interrupt_keeps_its_traceback(interrupts, monkeypatch):
    def broken(argv):
        raise RecursionError

    monkeypatch.setattr(main, "run", broken)
    with pytest.raises(RecursionError):
        main.entry_point()
