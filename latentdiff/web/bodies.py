"""The JSON of the API's answers. Shown on the page `/api`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from latentdiff.models.geometry import Geometry
from latentdiff.web.artist import Word
from latentdiff.web.gallery import Entry
from latentdiff.web.jobs import Job, Kind, Line, State
from latentdiff.web.shelf import Shelf


class JobView(BaseModel):
    """A job as it is now."""

    id: str
    kind: Annotated[Kind, Field(description="What it does.")]
    state: State
    ahead: Annotated[int, Field(description="Jobs that are done before it; 0 once it runs.")]
    asked: Annotated[dict[str, Any], Field(description="What was asked for.")]
    created: Annotated[float, Field(description="Seconds since 1970.")]
    started: float | None
    ended: float | None
    progress: Annotated[float, Field(ge=0, le=1)]
    stage: Annotated[str, Field(description="What it is doing.")]
    step: int
    steps: int
    picture: Annotated[int, Field(description="Which picture it draws, from 1.")]
    seconds_left: float | None
    previews: Annotated[list[str], Field(description="data: addresses of small pictures.")]
    images: Annotated[list[str], Field(description="Ids of the finished pictures.")]
    grid: Annotated[str | None, Field(description="Id of a sweep's labelled grid.")]
    notes: Annotated[list[str], Field(description="What a user should know, a line each.")]
    error: Annotated[str | None, Field(description="Why it failed: one sentence.")]


class WordView(BaseModel):
    """A word of a picture's prompt, and where it acted."""

    word: str
    contrast: Annotated[float, Field(description="Its hottest place over the mean.")]
    heat: Annotated[str, Field(description="A data: address, the picture under its heat map.")]


class ImageView(BaseModel):
    """A picture of the gallery, or a grid of several, whose first recipe it has; its PNG is at
    `/v1/images/{id}/png`."""

    id: str
    created: float
    width: int
    height: int
    recipe: dict[str, Any] | None
    pictures: Annotated[int, Field(description="How many stand in it: 1, or those of a grid.")]
    words: Annotated[
        list[WordView] | None,
        Field(description="Where its words acted, after POST /v1/images/{id}/words."),
    ] = None


class UploadView(BaseModel):
    """A picture that was sent, to be named as `source.image` or `source.inpaint.mask`."""

    id: str
    width: int
    height: int


class ImageList(BaseModel):
    """Newest first; `next` is what to give as `before` for older ones."""

    images: list[ImageView]
    next: str | None


class ModelView(BaseModel):
    """A model that can be asked for by name."""

    name: str
    steps: int | None
    guidance_scale: float | None
    width: Annotated[int | None, Field(description="Pixels it was made for.")]
    height: int | None
    multiple: Annotated[int, Field(description="Sides are multiples of so many pixels.")]
    subjects: list[str]
    settings: list[str]


class LoraView(BaseModel):
    """A LoRA that can be asked for by name."""

    name: str
    words: Annotated[list[str], Field(description="Words that call its subject up.")]
    prompt: str


class ServerView(BaseModel):
    """What this server is and takes."""

    version: str
    device: str
    model: str
    schedulers: list[str]
    limits: dict[str, int]
    fields: Annotated[list[str], Field(description="Keys that POST /v1/images takes.")]
    password: bool


class RecipeList(BaseModel):
    """The recipes inside a picture: one, or those of a grid."""

    recipes: list[dict[str, Any]]


class ErrorView(BaseModel):
    """Every refusal: one sentence that says what was found, expected, and what to do."""

    error: str


def job_view(job: Job, line: Line) -> JobView:
    """A job as it is now."""
    news, times = dict(job.news), dict(job.times)
    shown = job.state in ("running", "stopping")
    return JobView(
        id=job.id,
        kind=job.kind,
        state=job.state,
        ahead=line.ahead(job),
        asked=dict(job.asked),
        created=times.get("created", 0.0),
        started=times.get("started"),
        ended=times.get("ended"),
        progress=1.0 if job.state == "done" else news.get("progress", 0.0),
        stage=news.get("stage", "") if shown else "",
        step=news.get("step", 0),
        steps=news.get("steps", 0),
        picture=news.get("picture", 0),
        seconds_left=news.get("seconds_left") if shown else None,
        previews=news.get("previews", []) if shown else [],
        images=news.get("images", []),
        grid=news.get("grid"),
        notes=news.get("notes", []),
        error=job.error,
    )


def image_view(entry: Entry, words: Sequence[Word] | None = None) -> ImageView:
    """A picture of the gallery."""
    return ImageView(
        id=entry.id,
        created=entry.created,
        width=entry.width,
        height=entry.height,
        recipe=dict(entry.recipe) if entry.recipe is not None else None,
        pictures=entry.pictures,
        words=None
        if words is None
        else [WordView(word=w.word, contrast=w.contrast, heat=w.heat) for w in words],
    )


def model_views(shelf: Shelf) -> list[ModelView]:
    """The models of a shelf, the first one first."""
    return [_model_view(name, shelf.card(name), shelf.geometry(name)) for name in shelf.models()]


def _model_view(name: str, card: Mapping[str, Any], geometry: Geometry | None) -> ModelView:
    settings = card.get("settings", {})
    height, width = (geometry and geometry.own_size) or (None, None)
    return ModelView(
        name=name,
        steps=card.get("num_inference_steps"),
        guidance_scale=card.get("guidance_scale"),
        width=width,
        height=height,
        multiple=geometry.factor if geometry else 8,
        subjects=[str(s) for s in card.get("subjects", [])],
        settings=[str(s) for s in settings.values()] if isinstance(settings, Mapping) else [],
    )
