"""The JSON API of lessons, under `/v1/lessons`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath
from pydantic import BaseModel, Field
from starlette.responses import FileResponse

from latentdiff.errors import UserError
from latentdiff.web import bodies
from latentdiff.web.bodies import JobView
from latentdiff.web.drawing_body import FINITE, Closed
from latentdiff.web.jobs import ENDED, Kind
from latentdiff.web.routes import PICTURE_BODY, Owner, TheStudio, recipes_in, refusals
from latentdiff.web.studio import Studio
from latentdiff.web.teach import teacher
from latentdiff.web.teach.lessons import LONGEST_CAPTION, Lesson, LessonPicture
from latentdiff.web.teach.teacher import Teaching
from latentdiff.web.uploads import MEDIA

lessons = APIRouter(prefix="/v1/lessons", tags=["lessons"])
LessonId = Annotated[str, InPath(max_length=64, description="An id of GET /v1/lessons.")]
PictureName = Annotated[str, InPath(max_length=16, description="A name of the lesson's pictures.")]
ANEW = {"cache-control": "no-cache"}
"""Of files whose names another file may have later: the browser asks each time."""
Text = Annotated[str, Field(max_length=LONGEST_CAPTION)]


class NewLesson(Closed):
    """What a LoRA is to be called, and what it stands beside."""

    title: Annotated[str, Field(min_length=1, max_length=100)]
    model: Annotated[str | None, Field(max_length=200, description="Of GET /v1/models.")] = None


class Caption(Closed):
    """What a picture shows."""

    caption: Text


class TeachingBody(Closed):
    """How to teach; what is left out is as the preset `lora` has it."""

    minutes: Annotated[
        float | None,
        Field(gt=0, le=10_000, description="It ends after so many, or after its steps.", **FINITE),
    ] = 10.0
    steps: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    learning_rate: Annotated[float | None, Field(gt=0, le=1, **FINITE)] = None
    batch_size: Annotated[int | None, Field(ge=1, le=256)] = None
    rank: Annotated[int | None, Field(ge=1, le=256)] = None
    trigger_words: Annotated[
        str, Field(max_length=200, description="Put before every caption that lacks them.")
    ] = ""
    resume: Annotated[
        bool, Field(description="Go on with a stopped training; else a new one begins.")
    ] = False


class LessonPictureView(BaseModel):
    """A picture to learn from; its file is at `/v1/lessons/{id}/pictures/{name}`."""

    name: str
    caption: str
    width: int
    height: int
    left_out: Annotated[str | None, Field(description="Why it is not learnt from.")]
    noted: list[str]


class CheckView(BaseModel):
    """What a look through the pictures found."""

    usable: int
    enough: bool
    said: list[str]


class RunView(BaseModel):
    """What a training tells so far. began: differs from run to run."""

    began: str
    step: int
    minutes: float | None
    ended: Annotated[str, Field(description="finished, time, interrupted; empty while it runs.")]
    trouble: str
    curves: Annotated[
        dict[str, list[tuple[float, float]]], Field(description="Name → points (update, loss).")
    ]
    sheets: Annotated[
        list[int], Field(description="Steps with sample pictures, at /v1/lessons/{id}/sheets/STEP.")
    ]
    resumable: bool
    learnt: Annotated[bool, Field(description="Whether a LoRA of the lesson's id is on offer.")]


class LessonView(BaseModel):
    """A lesson as it is now. id: also the name of its LoRA."""

    id: str
    title: str
    model: str
    created: float
    pictures: list[LessonPictureView]
    check: CheckView | None
    job: Annotated[str | None, Field(description="Id of its job that waits or runs.")]
    run: RunView | None


def picture_view(picture: LessonPicture, check: dict[str, Any] | None) -> LessonPictureView:
    """A picture with what was found in it."""
    found = check or {}
    return LessonPictureView(
        name=picture.name,
        caption=picture.caption,
        width=picture.width,
        height=picture.height,
        left_out=found.get("left_out", {}).get(picture.name),
        noted=found.get("noted", {}).get(picture.name, []),
    )


def lesson_view(lesson: Lesson, studio: Studio) -> LessonView:
    """A lesson as it is now."""
    check, run = lesson.check(), teacher.run_of(lesson)
    return LessonView(
        id=lesson.id,
        title=lesson.title,
        model=lesson.model,
        created=lesson.created,
        pictures=[picture_view(picture, check) for picture in lesson.pictures],
        check=None
        if check is None
        else CheckView(usable=check["usable"], enough=check["enough"], said=check["said"]),
        job=active_job(lesson.id, studio),
        run=None if run is None else RunView(**run),
    )


def active_job(lesson_id: str, studio: Studio) -> str | None:
    """The job of a lesson that waits or runs, if there is one."""
    active = (job for job in studio.teaching.all() if job.state not in ENDED)
    return next((job.id for job in active if job.asked["lesson"] == lesson_id), None)


def _free(lesson_id: str, studio: Studio) -> None:
    if active_job(lesson_id, studio) is not None:
        raise UserError("this lesson is at work; stop it first")
    teacher.refuse_in_use(studio.teacher.lessons.get(lesson_id))


@lessons.get("", responses=refusals())
def all_lessons(studio: TheStudio) -> list[LessonView]:
    """The lessons, newest first."""
    return [lesson_view(lesson, studio) for lesson in studio.teacher.lessons.all()]


@lessons.post("", status_code=201, responses=refusals(413, 422))
def create(body: NewLesson, studio: TheStudio) -> LessonView:
    """Begin a lesson: a LoRA that is to be taught from pictures with captions."""
    name, _ = studio.shelf.model_of(body.model)
    if not body.title.isprintable():
        raise UserError("title: it holds what cannot be printed")
    taken = studio.shelf.loras()
    lesson = studio.teacher.lessons.create(body.title, name, lambda one: one in taken)
    return lesson_view(lesson, studio)


@lessons.get("/{lesson_id}", responses=refusals(404, 422))
def lesson(lesson_id: LessonId, studio: TheStudio) -> LessonView:
    """A lesson: its pictures, what a look found in them, how its training goes."""
    return lesson_view(studio.teacher.lessons.get(lesson_id), studio)


@lessons.delete("/{lesson_id}", status_code=204, responses=refusals(404, 422))
def remove(lesson_id: LessonId, studio: TheStudio) -> Response:
    """Move a lesson, and what it learnt, to the gallery's trash."""
    _free(lesson_id, studio)
    studio.teacher.lessons.remove(lesson_id)
    return Response(status_code=204)


@lessons.post(
    "/{lesson_id}/pictures",
    status_code=201,
    responses=refusals(404, 413, 422),
    openapi_extra={"requestBody": PICTURE_BODY},
)
async def add_picture(
    lesson_id: LessonId,
    request: Request,
    studio: TheStudio,
    caption: Annotated[
        str,
        Query(
            max_length=LONGEST_CAPTION,
            description="What it shows; without one, the prompt in a PNG that was drawn.",
        ),
    ] = "",
) -> LessonPictureView:
    """Add a picture; send it as the body."""
    data = await request.body()
    return await asyncio.to_thread(_add, studio, lesson_id, data, caption)


def _add(studio: Studio, lesson_id: str, data: bytes, caption: str) -> LessonPictureView:
    if not caption.strip():
        try:
            caption = str(recipes_in(data).recipes[0]["request"]["prompt"])
        except UserError:
            caption = ""
    return picture_view(studio.teacher.lessons.add(lesson_id, data, caption), None)


@lessons.post("/{lesson_id}/pictures/{name}", responses=refusals(404, 413, 422))
def write_caption(
    lesson_id: LessonId, name: PictureName, body: Caption, studio: TheStudio
) -> LessonPictureView:
    """Write a picture's caption."""
    changed = studio.teacher.lessons.caption(lesson_id, name, body.caption)
    return picture_view(changed, None)


@lessons.get(
    "/{lesson_id}/pictures/{name}",
    responses=refusals(404, 422) | {200: {"content": PICTURE_BODY["content"]}},
    response_class=FileResponse,
)
def picture(lesson_id: LessonId, name: PictureName, studio: TheStudio) -> FileResponse:
    """A picture of a lesson."""
    path = studio.teacher.lessons.picture_file(lesson_id, name)
    return FileResponse(path, media_type=MEDIA[path.suffix[1:]], headers=ANEW)


@lessons.delete("/{lesson_id}/pictures/{name}", status_code=204, responses=refusals(404, 422))
def remove_picture(lesson_id: LessonId, name: PictureName, studio: TheStudio) -> Response:
    """Take a picture out of a lesson."""
    studio.teacher.lessons.remove_picture(lesson_id, name)
    return Response(status_code=204)


def _begin(
    studio: Studio, lesson_id: str, kind: Kind, owner: str, body: TeachingBody | None
) -> JobView:
    teaching = None if body is None else Teaching(**body.model_dump())
    _free(lesson_id, studio)
    job = studio.teacher.job(lesson_id, kind, owner, teaching)
    return bodies.job_view(*studio.teach(job))


STARTS = refusals(404, 413, 422, 429)


@lessons.post("/{lesson_id}/check", status_code=202, responses=refusals(404, 422, 429))
def check(lesson_id: LessonId, studio: TheStudio, owner: Owner) -> JobView:
    """Look at every picture and caption; the lesson then says what is usable, and why the rest is
    not."""
    return _begin(studio, lesson_id, "check", owner, None)


@lessons.post("/{lesson_id}/rehearsal", status_code=202, responses=STARTS)
def rehearsal(lesson_id: LessonId, body: TeachingBody, studio: TheStudio, owner: Owner) -> JobView:
    """Try all that the training will do, in a minute or two; the job's notes say what the whole
    will take."""
    return _begin(studio, lesson_id, "rehearsal", owner, body)


@lessons.post("/{lesson_id}/training", status_code=202, responses=STARTS)
def training(lesson_id: LessonId, body: TeachingBody, studio: TheStudio, owner: Owner) -> JobView:
    """Teach the LoRA, in a process of its own; stopping the job leaves a checkpoint."""
    return _begin(studio, lesson_id, "training", owner, body)


@lessons.get(
    "/{lesson_id}/sheets/{step}",
    responses=refusals(404, 422) | {200: {"content": {"image/png": {}}}},
    response_class=FileResponse,
)
def sheet(
    lesson_id: LessonId,
    step: Annotated[int, InPath(ge=0, le=10_000_000)],
    studio: TheStudio,
) -> FileResponse:
    """The sample pictures that were drawn at a step of the training."""
    path = studio.teacher.lessons.sheet_file(lesson_id, step)
    return FileResponse(path, media_type="image/png", headers=ANEW)
