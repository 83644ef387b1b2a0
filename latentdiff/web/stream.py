"""Server-sent events: a job's, or all of an owner's, each time something changed.

Every event holds the whole job, so one that is missed is made up for by the next; a slow reader
gets the latest and never a backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

from starlette.responses import StreamingResponse

from latentdiff.web.bodies import job_view
from latentdiff.web.jobs import ENDED, Job, Line

HEARTBEAT = 10.0
"""Seconds after which a quiet stream says that it is alive."""
STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Presence:
    """Which browsers have a page open: jobs of one that left are stopped after `grace` seconds.

    A page says so itself when it is closed (sleep, a lost network and a reload are no goodbye: it
    comes back). Jobs of callers of the API are not touched.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self._open: dict[str, int] = {}
        self._left: dict[str, float] = {}

    @contextlib.contextmanager
    def page(self, owner: str) -> Iterator[None]:
        """While a page of this owner listens."""
        self._open[owner] = self._open.get(owner, 0) + 1
        self._left.pop(owner, None)
        try:
            yield
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    def leave(self, owner: str) -> None:
        """A page of this owner was closed."""
        self._left[owner] = time.monotonic()

    def gone(self) -> list[str]:
        """Owners that left and did not come back; each is named once."""
        now = time.monotonic()
        due = [owner for owner, since in self._left.items() if now - since > self.grace]
        for owner in due:
            del self._left[owner]
        return [owner for owner in due if owner not in self._open]


async def events(
    lines: list[Line], select: Callable[[], list[tuple[Job, Line]]], *, ends: bool
) -> AsyncIterator[str]:
    """The jobs that `select` gives, each when it changed; ends: close once all have ended."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def listener() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
            loop.call_soon_threadsafe(changed.set)

    for line in lines:
        line.listeners.add(listener)
    sent: dict[str, int] = {}
    try:
        yield "retry: 1000\n\n"
        while True:
            changed.clear()
            over = True
            for job, line in select():
                with line.lock:  # or the last change could come between the view and the question
                    over = over and job.state in ENDED
                    view = job_view(job, line) if sent.get(job.id, -1) < job.version else None
                    sent[job.id] = job.version
                if view is not None:
                    yield event("job", view.model_dump_json())
            if any(line.closed for line in lines):
                return
            if ends and over:
                return
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT)
            except TimeoutError:
                yield ": alive\n\n"
    finally:
        for line in lines:
            line.listeners.discard(listener)


def event(name: str, data: str) -> str:
    """One event; the data is JSON, and so of one line."""
    return f"event: {name}\ndata: {data}\n\n"


def response(source: AsyncIterator[str]) -> StreamingResponse:
    """The stream as an answer."""
    return StreamingResponse(source, media_type="text/event-stream", headers=STREAM_HEADERS)
