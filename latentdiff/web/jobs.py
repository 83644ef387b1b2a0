"""A line of jobs and the one thread that does them: places, turns, stopping, and news of both.

Each owner (a browser, a token) has a turn after the others: whoever has asked for twenty pictures
waits after the first for whoever has asked for one. Nothing here knows what a job does.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from latentdiff.errors import UserError

State = Literal["waiting", "running", "stopping", "done", "stopped", "failed"]
Kind = Literal["picture", "words", "check", "rehearsal", "training"]
ENDED: tuple[State, ...] = ("done", "stopped", "failed")
KEPT = 200
"""Ended jobs that are remembered; older ones are forgotten, their pictures stay."""

log = logging.getLogger(__name__)


class StoppedError(Exception):
    """Raised inside a job's work when it was asked to stop."""


class LineFullError(Exception):
    """One line for whoever would have to wait in a line that is too long."""


@dataclass(eq=False)
class Job:
    """One piece of work. kind: what it does; asked: what was asked for, plain values; news: what
    the work reports.

    times: seconds since 1970 at which it was `created`, `started` and `ended`, as far as it was.
    """

    owner: str
    asked: Mapping[str, Any]
    work: Callable[[Job], None] = field(repr=False)
    kind: Kind = "picture"
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    state: State = "waiting"
    error: str | None = None
    news: dict[str, Any] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    version: int = 0
    round: int = 0
    _line: Line | None = field(default=None, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def check(self) -> None:
        """Raise StoppedError when the job was asked to stop; its work calls this at every step."""
        if self._stop.is_set():
            raise StoppedError

    @property
    def stop_requested(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait a while; True, at once, when the job was asked to stop."""
        return self._stop.wait(seconds)

    def report(self, **news: Any) -> None:
        """Let whoever listens know how far the work is."""
        assert self._line is not None, "the job is in no line"
        self._line.change(self, news=news)


class Line:
    """Jobs in the order they will be done, and the thread that does them one by one.

    max_waiting, max_waiting_each: of all owners together, and of one. listeners are called, from
    any thread, after every change; they must be quick.
    """

    def __init__(self, *, max_waiting: int, max_waiting_each: int) -> None:
        self.max_waiting, self.max_waiting_each = max_waiting, max_waiting_each
        self.listeners: set[Callable[[], None]] = set()
        self._jobs: dict[str, Job] = {}
        self._version = 0
        self._round = 0
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self.closed = False
        self._thread = threading.Thread(target=self._run, name="latentdiff-worker", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self, patience: float = 10.0) -> None:
        """Stop all jobs, and wait for the one that runs, at most `patience` seconds."""
        with self._changed:
            self.closed = True
            for job in list(self._jobs.values()):
                self._stop(job)
            self._changed.notify_all()
            listeners = list(self.listeners)
        for listener in listeners:
            listener()
        if self._thread.is_alive():
            self._thread.join(patience)

    def submit(self, job: Job) -> Job:
        """Put a job at the end of its owner's line; LineFullError when there is no room."""
        with self._changed:
            waiting = [j for j in self._jobs.values() if j.state == "waiting"]
            own = sum(j.owner == job.owner for j in waiting)
            if own >= self.max_waiting_each:
                raise LineFullError(
                    f"{own} of your jobs wait already; at most {self.max_waiting_each} may: "
                    "let some finish, or stop some"
                )
            if len(waiting) >= self.max_waiting or self.closed:
                raise LineFullError(
                    f"{len(waiting)} jobs wait already; try again when some are done"
                )
            job._line, job.round = self, self._round_for(job.owner)
            job.times["created"] = time.time()
            self._jobs[job.id] = job
            self.change(job, state="waiting")
            self._changed.notify_all()
        return job

    def stop(self, job: Job) -> None:
        """End a waiting job now, a running one at its next step; an ended one stays as it is."""
        with self._changed:
            self._stop(job)

    def _stop(self, job: Job) -> None:
        job._stop.set()
        if job.state == "waiting":
            job.times["ended"] = time.time()
            self.change(job, state="stopped")
        elif job.state == "running":
            self.change(job, state="stopping")

    def get(self, job_id: str) -> Job | None:
        """The job of that id, if it is remembered."""
        return self._jobs.get(job_id)

    def of(self, owner: str) -> list[Job]:
        """An owner's jobs, oldest first."""
        with self._changed:
            return [job for job in self._jobs.values() if job.owner == owner]

    def all(self) -> list[Job]:
        """Everyone's jobs, oldest first."""
        with self._changed:
            return list(self._jobs.values())

    def ahead(self, job: Job) -> int:
        """How many jobs are done before a waiting one, the running one included; else 0."""
        with self._changed:
            if job.state != "waiting":
                return 0
            return self._waiting().index(job) + len(self._active())

    def change(
        self, job: Job, *, state: State | None = None, news: Mapping[str, Any] | None = None
    ) -> None:
        """Note what changed in a job, and tell the listeners."""
        with self._changed:
            job.news |= news or {}
            others_move = state is not None and state != job.state
            if state is not None:
                job.state = state
            self._version += 1
            job.version = self._version
            if others_move:  # whoever waits has another place now
                for other in self._jobs.values():
                    if other.state == "waiting":
                        other.version = self._version
            listeners = list(self.listeners)
        for listener in listeners:
            listener()

    def _active(self) -> list[Job]:
        return [j for j in self._jobs.values() if j.state in ("running", "stopping")]

    def _waiting(self) -> list[Job]:
        """Waiting jobs in the order they will be done: by rounds, in each as they came."""
        waiting = (j for j in self._jobs.values() if j.state == "waiting")
        return sorted(waiting, key=lambda job: job.round)

    def _round_for(self, owner: str) -> int:
        """The first round in which an owner has no job yet: each has one job in a round."""
        own = [j.round for j in self._jobs.values() if j.owner == owner and j.state not in ENDED]
        return max(self._round, max(own, default=-1) + 1)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self.closed and not self._waiting():
                    self._changed.wait()
                if self.closed:
                    return
                job = self._waiting()[0]
                self._round = job.round
                job.times["started"] = time.time()
                self.change(job, state="running")
            state = self._do(job)
            with self._changed:
                job.times["ended"] = time.time()
                self.change(job, state=state)
                self._forget()

    def _do(self, job: Job) -> State:
        """Do one job's work; whatever it raises ends the job, never the thread."""
        try:
            job.work(job)
        except StoppedError:
            return "stopped"
        except UserError as error:
            job.error = str(error)
        except MemoryError:
            job.error = "there is not enough memory for this; make it smaller, or fewer at once"
        except Exception as error:
            if "out of memory" in str(error):
                job.error = "the device has not enough memory for this; make it smaller"
            else:
                log.exception("job %s failed", job.id)
                job.error = (
                    f"something broke that should not ({type(error).__name__}); "
                    "the terminal of the server says where"
                )
        else:
            return "done"
        return "failed"

    def _forget(self) -> None:
        ended = [job for job in self._jobs.values() if job.state in ENDED]
        for job in ended[: max(0, len(ended) - KEPT)]:
            del self._jobs[job.id]
