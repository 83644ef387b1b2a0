"""The line of jobs: turns, stopping, what a broken job leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from latentdiff.errors import UserError
from latentdiff.web.jobs import ENDED, KEPT, Job, Line, LineFullError


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line(max_waiting=40, max_waiting_each=30)
    yield line
    line.close()


def job(owner: str, work: Callable[[Job], None] = lambda job: None) -> Job:
    return Job(owner=owner, asked={}, work=work)


def done(line: Line, *jobs: Job) -> None:
    """Wait until the jobs have ended."""
    ended = threading.Event()

    def look() -> None:
        if all(j.state in ENDED for j in jobs):
            ended.set()

    line.listeners.add(look)
    look()
    assert ended.wait(20), [j.state for j in jobs]


def test_every_owner_has_a_turn_before_one_has_a_second(line: Line) -> None:
    order: list[str] = []

    def noting(name: str) -> Callable[[Job], None]:
        return lambda job: order.append(name)

    jobs = [line.submit(job("a", noting(f"a{k}"))) for k in range(3)]
    jobs += [line.submit(job("b", noting(f"b{k}"))) for k in range(2)]
    assert [line.ahead(j) for j in jobs] == [0, 2, 4, 1, 3]
    line.start()
    done(line, *jobs)
    assert order == ["a0", "b0", "a1", "b1", "a2"]


def test_a_waiting_job_that_is_stopped_ends_at_once_and_the_others_move_up(line: Line) -> None:
    first, second, third = (line.submit(job("a")) for _ in range(3))
    seen = third.version
    line.stop(second)
    assert second.state == "stopped"
    assert line.ahead(third) == 1
    assert third.version > seen, "whoever listens to it is not told of its new place"
    assert first.state == "waiting"


def test_a_running_job_stops_at_its_next_check_and_frees_the_worker(line: Line) -> None:
    steps: list[int] = []
    running = threading.Event()

    def endless(job: Job) -> None:
        while True:
            steps.append(1)
            running.set()
            job._stop.wait()
            job.check()

    first, second = line.submit(job("a", endless)), line.submit(job("b"))
    line.start()
    assert running.wait(10)
    assert line.ahead(second) == 1
    line.stop(first)
    done(line, first, second)
    assert (first.state, second.state, len(steps)) == ("stopped", "done", 1)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("width 33 does not fit"), "width 33 does not fit"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to …"), "the device has not enough memory"),
        (ZeroDivisionError("x"), "something broke that should not (ZeroDivisionError)"),
    ],
    ids=["mistake", "memory", "device", "bug"],
)
def test_what_a_job_raises_ends_the_job_with_a_sentence_and_not_the_worker(
    line: Line, error: Exception, said: str
) -> None:
    def broken(job: Job) -> None:
        raise error

    first, second = line.submit(job("a", broken)), line.submit(job("a"))
    line.start()
    done(line, first, second)
    assert first.state == "failed"
    assert said in str(first.error)
    assert second.state == "done"


def test_a_line_that_is_too_long_is_refused_first_for_whoever_made_it_long() -> None:
    line = Line(max_waiting=5, max_waiting_each=3)
    for _ in range(3):
        line.submit(job("a"))
    with pytest.raises(LineFullError, match="3 of your jobs wait already"):
        line.submit(job("a"))
    for _ in range(2):
        line.submit(job("b"))
    with pytest.raises(LineFullError, match="5 jobs wait already"):
        line.submit(job("c"))


def test_ended_jobs_are_forgotten_after_a_while(line: Line) -> None:
    line.max_waiting = line.max_waiting_each = 2 * KEPT
    jobs = [line.submit(job("a")) for _ in range(KEPT + 5)]
    line.start()
    done(line, *jobs)
    line.close()
    assert line.get(jobs[0].id) is None
    assert line.get(jobs[-1].id) is jobs[-1]
