"""One server's state: what it offers, who may in, what waits, what was drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from latentdiff.errors import UserError
from latentdiff.web.artist import Artist, Order, asked_of
from latentdiff.web.gallery import INPUTS, LESSONS, Gallery, NoPictureError
from latentdiff.web.guard import Access
from latentdiff.web.jobs import Job, Line
from latentdiff.web.limits import Limits
from latentdiff.web.shelf import Shelf
from latentdiff.web.stream import Presence
from latentdiff.web.teach.lessons import Lessons
from latentdiff.web.teach.teacher import Teacher
from latentdiff.web.uploads import NoUploadError, Uploads

GRACE = 15.0
"""Seconds after which the jobs of a closed page are stopped; a reload takes less."""


class NoJobError(UserError):
    """No job has the id that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Studio:
    """drawing: the line of draw jobs. teaching: that of lessons. presence: which pages are open."""

    artist: Artist
    access: Access
    presence: Presence
    drawing: Line
    teaching: Line
    uploads: Uploads
    teacher: Teacher

    @classmethod
    def of(cls, artist: Artist, access: Access | None = None, *, grace: float = GRACE) -> Studio:
        """A studio with a line as long as the artist's limits say; grace: see `Presence`."""
        limits, folder = artist.limits, artist.gallery.folder
        lessons = Lessons(
            folder / LESSONS,
            most=limits.max_lesson_pictures,
            max_pixels=limits.max_upload_pixels,
        )
        return cls(
            artist=artist,
            access=access or Access(),
            presence=Presence(grace),
            drawing=Line(max_waiting=limits.max_queue, max_waiting_each=limits.max_queue_each),
            teaching=Line(max_waiting=8, max_waiting_each=4),
            uploads=Uploads(folder / INPUTS, max_pixels=limits.max_upload_pixels),
            teacher=Teacher(lessons, artist.shelf),
        )

    @property
    def lines(self) -> list[Line]:
        """All lines of jobs."""
        return [self.drawing, self.teaching]

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
        order = replace(order, model=name)
        self.artist.check(order)
        job = Job(owner=owner, asked=asked_of(order), work=partial(self.artist.draw, order))
        return self.drawing.submit(job), self.drawing

    def explain(self, picture_id: str, owner: str) -> tuple[Job, Line]:
        """Put in line that a picture's words are to be explained; LineFullError, UserError."""
        entry = self.gallery.get(picture_id)
        if entry.recipe is None or entry.pictures > 1:
            raise UserError("only a single picture with a recipe can be explained")
        asked = {"picture": picture_id, "request": entry.recipe["request"], "num_images": 0}
        work = partial(self.artist.explain, picture_id)
        return self.drawing.submit(Job(owner, asked, work, kind="words")), self.drawing

    def teach(self, job: Job) -> tuple[Job, Line]:
        """Put a lesson's job in its line."""
        return self.teaching.submit(job), self.teaching

    def find_picture(self, picture_id: str) -> Path:
        """The file of an upload or of a picture of the gallery; UserError for another id."""
        try:
            return self.gallery.path(picture_id).resolve()
        except NoPictureError:
            pass
        try:
            return self.uploads.path(picture_id)
        except NoUploadError as error:
            raise UserError(str(error)) from error

    def jobs_of(self, owner: str) -> list[tuple[Job, Line]]:
        """An owner's jobs, and everyone's lessons, with their lines, oldest first."""
        found = [(job, self.drawing) for job in self.drawing.of(owner)]
        found += [(job, self.teaching) for job in self.teaching.all()]
        return sorted(found, key=lambda pair: pair[0].times["created"])

    def find(self, job_id: str) -> tuple[Job, Line]:
        """The job of that id; NoJobError when none is remembered."""
        for line in self.lines:
            job = line.get(job_id)
            if job is not None:
                return job, line
        raise NoJobError("no job has this id; ended ones are forgotten after a while")

    def stop_abandoned(self) -> None:
        """Stop the drawings of browsers whose last page was closed; lessons take hours and stay."""
        for owner in self.presence.gone():
            for job in self.drawing.of(owner):
                self.drawing.stop(job)

    def start(self) -> None:
        """Begin to work."""
        for line in self.lines:
            line.start()

    def close(self, patience: float = 10.0) -> None:
        """Stop everything."""
        for line in self.lines:
            line.close(patience)
