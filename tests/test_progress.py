"""Progress: the end once, nothing of what is over at once, and a word in every silence."""

import io
import os
import sys
import time

import pytest

from latentdiff import console, progress
from latentdiff.cli.stages import Stages
from latentdiff.progress import SILENCE, Heartbeat, Progress, note, stage


def test_the_end_is_said_once_though_it_is_counted_twice(capsys):
    progress = Progress("read")
    for done in (1, 2, 2):
        progress(done, 2)
    said = capsys.readouterr().err
    assert said.startswith("read 2 of 2, ")
    assert said.count("\n") == 1
    assert not said.endswith(" \n")


def test_what_is_over_within_the_patience_is_not_spoken_of(capsys):
    progress = Progress("read", patience=60.0)
    progress(2, 2)
    assert capsys.readouterr().err == ""


class Clock:
    """A time that only moves when it is told to, and a listener that hears what is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.written = 1000.0
        self.heard: list[str] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(progress, "_stages", [])
        self.heart = Heartbeat(
            now=lambda: self.now, written=lambda: self.written, write=self._write
        )

    def _write(self, text: str) -> None:
        self.heard.append(text)
        self.written = self.now

    def pass_by(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            self.heart.beat()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_no_silence_is_longer_than_its_limit(clock: Clock) -> None:
    with stage("loading the model"):
        clock.pass_by(3 * SILENCE)
    assert clock.heard == [f"loading the model … {k * SILENCE:.0f} s" for k in (1, 2, 3)]


def test_what_is_written_by_others_puts_the_heartbeat_off(clock: Clock) -> None:
    with stage("training"):
        for _ in range(5):
            clock.pass_by(SILENCE - 1)
            clock.written = clock.now
        assert clock.heard == []


def test_the_innermost_stage_is_named_with_how_far_it_has_come(clock: Clock) -> None:
    with stage("outer"):
        with stage("inner"):
            clock.pass_by(1)
            note("picture 3 of 9")
            clock.pass_by(SILENCE - 1)
        clock.pass_by(SILENCE)
    assert clock.heard == ["picture 3 of 9 … 4 s", "outer … 9 s"]


def test_what_was_loaded_is_not_said_of_what_comes_after(clock: Clock) -> None:
    with stage("latentdiff evaluate: working"):
        with Stages().stage("loading snowglobe"):
            clock.pass_by(SILENCE)
        clock.pass_by(SILENCE)
    assert clock.heard[0].startswith("loading snowglobe … ")
    assert [said.partition(" … ")[0] for said in clock.heard[1:]] == [
        "latentdiff evaluate: working"
    ]


def test_a_count_is_repeated_while_its_next_one_takes_long(clock: Clock, capsys) -> None:
    with stage("a check"):
        Progress("looked at", patience=3.0)(7, 9)
        clock.pass_by(SILENCE)
    assert clock.heard == ["looked at 7 of 9 … 4 s"]
    assert capsys.readouterr().err == ""


def test_nothing_is_said_of_a_server_that_waits_or_where_nothing_is_done(clock: Clock) -> None:
    clock.pass_by(2 * SILENCE)
    with stage("serving"), stage(""):
        clock.pass_by(2 * SILENCE)
    assert clock.heard == []


def test_other_processes_of_a_training_are_silent_and_a_variable_turns_it_off(monkeypatch) -> None:
    for name, value in ((progress.SWITCH, "0"), ("RANK", "1")):
        monkeypatch.setenv(progress.SWITCH, "1")
        monkeypatch.setenv(name, value)
        with Heartbeat() as heart:
            assert not heart._thread.is_alive()
        monkeypatch.delenv("RANK", raising=False)


class Screen(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("live", [True, False], ids=["terminal", "file"])
def test_on_a_terminal_the_next_word_takes_the_line_and_elsewhere_a_line_stays(
    live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Screen() if live else io.BytesIO()
    stream = console.Console(raw, encoding="utf-8", errors=console.ERRORS, line_buffering=True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "21")
    console.write_passing("loading … 5 s")
    print("done", file=stream)
    text = raw.getvalue().decode()
    if live:
        assert text == f"\rloading … 5 s{' ' * 7}\r{' ' * 20}\rdone\n"
    else:
        assert text == "loading … 5 s\ndone\n"


def test_only_what_has_come_out_counts_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "written_at", 0.0)
    buffered = console.Console(io.BytesIO(), encoding="utf-8", errors=console.ERRORS)
    print("kept back", file=buffered)
    assert console.written_at == 0.0
    buffered.flush()
    assert console.written_at > 0.0


def test_a_fork_never_copies_a_half_written_word() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    child = os.fork()
    if child == 0:
        free = console._beating.acquire(blocking=False)
        os._exit(0 if free else 1)
    assert os.waitpid(child, 0)[1] == 0
