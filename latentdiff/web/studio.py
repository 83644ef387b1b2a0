"""One server's state: what it offers, who may in, what waits, what was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from latentdiff.errors import UserError
from latentdiff.web.artist import Artist, Order, asked_of
from latentdiff.web.gallery import Gallery
from latentdiff.web.guard import Access
from latentdiff.web.jobs import Job, Line
from latentdiff.web.limits import Limits
from latentdiff.web.shelf import Shelf
from latentdiff.web.stream import Presence

GRACE = 15.0
"""Seconds after which the jobs of a closed page are stopped; a reload takes less."""


class NoJobError(UserError):
    """No job has the id that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Studio:
    """drawing: the line of draw jobs. presence: which pages are open."""

    artist: Artist
    access: Access
    presence: Presence
    drawing: Line

    @classmethod
    def of(cls, artist: Artist, access: Access | None = None, *, grace: float = GRACE) -> Studio:
        """A studio with a line as long as the artist's limits say; grace: see `Presence`."""
        limits = artist.limits
        line = Line(max_waiting=limits.max_queue, max_waiting_each=limits.max_queue_each)
        return cls(artist=artist, access=access or Access(), presence=Presence(grace), drawing=line)

    @property
    def lines(self) -> list[Line]:
        """All lines of jobs."""
        return [self.drawing]

    @property
    def shelf(self) -> Shelf:
        """Models and LoRAs."""
        return self.artist.shelf

    @property
    def gallery(self) -> Gallery:
        """What was drawn."""
        return self.artist.gallery

    @property
    def limits(self) -> Limits:
        """What one request may ask for."""
        return self.artist.limits

    def draw(self, order: Order, owner: str) -> tuple[Job, Line]:
        """Put an order in line. UserError for what cannot be drawn, LineFullError where there is
        no room.

        Names are checked here; sizes too, where the model is open already.
        """
        name, _ = self.shelf.model_of(order.model)
        for lora, _ in order.loras:
            self.shelf.lora_of(lora)
        order = Order(order.requests, name, order.loras)
        self.artist.check(order)
        job = Job(owner=owner, asked=asked_of(order), work=partial(self.artist.draw, order))
        return self.drawing.submit(job), self.drawing

    def jobs_of(self, owner: str) -> list[tuple[Job, Line]]:
        """An owner's jobs with their lines, oldest first."""
        found = [(job, line) for line in self.lines for job in line.of(owner)]
        return sorted(found, key=lambda pair: pair[0].times["created"])

    def find(self, job_id: str) -> tuple[Job, Line]:
        """The job of that id; NoJobError when none is remembered."""
        for line in self.lines:
            job = line.get(job_id)
            if job is not None:
                return job, line
        raise NoJobError("no job has this id; ended ones are forgotten after a while")

    def stop_abandoned(self) -> None:
        """Stop the jobs of browsers whose last page was closed."""
        for owner in self.presence.gone():
            for job, line in self.jobs_of(owner):
                line.stop(job)

    def start(self) -> None:
        """Begin to work."""
        for line in self.lines:
            line.start()

    def close(self, patience: float = 10.0) -> None:
        """Stop everything."""
        for line in self.lines:
            line.close(patience)
