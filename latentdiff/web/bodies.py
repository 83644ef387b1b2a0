"""The JSON of the API: what callers send, and what they get. Shown on the page `/api`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from latentdiff.errors import UserError
from latentdiff.models.geometry import Geometry
from latentdiff.pipelines.request import Request, several
from latentdiff.schedulers import names
from latentdiff.web.artist import Order
from latentdiff.web.gallery import Entry
from latentdiff.web.jobs import Job, Line
from latentdiff.web.limits import Limits
from latentdiff.web.shelf import Shelf

OPEN_TEXTS = ("prompt", "negative_prompt", "scheduler")
"""Texts of a request that callers may send. Others may name files of the server, and stay closed
until they are listed here; numbers, switches and choices are open by themselves."""
SEED_MAX = 2**32 - 1


class Closed(BaseModel):
    """A body that knows all its keys."""

    model_config = ConfigDict(extra="forbid")


class LoraChoice(Closed):
    """A LoRA and how strongly to apply it."""

    name: Annotated[str, Field(max_length=200, description="A name of GET /v1/loras.")]
    scale: Annotated[
        float, Field(ge=-4, le=4, allow_inf_nan=False, description="1 is as it was trained.")
    ] = 1.0


class JobView(BaseModel):
    """A job as it is now."""

    id: str
    state: Literal["waiting", "running", "stopping", "done", "stopped", "failed"]
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
    notes: Annotated[list[str], Field(description="What a user should know, a line each.")]
    error: Annotated[str | None, Field(description="Why it failed: one sentence.")]


class ImageView(BaseModel):
    """A picture of the gallery; its PNG is at `/v1/images/{id}/png`."""

    id: str
    created: float
    width: int
    height: int
    recipe: dict[str, Any] | None


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


def draw_body(limits: Limits) -> type[BaseModel]:
    """The body of `POST /v1/images`: the open fields of `Request` within a server's limits."""
    said, hints = field_texts(Request), typing.get_type_hints(Request)
    made: dict[str, Any] = {}
    for field in dataclasses.fields(Request):
        if not is_open(field.name, hints[field.name]):
            continue
        told = said.get(field.name)
        if field.name == "scheduler":
            told = f"{told} Known: {', '.join(names.known_names())}."
        default = ... if field.default is dataclasses.MISSING else field.default
        about = Field(default, description=told, **_bounds(field.name, limits))
        made[field.name] = (hints[field.name], about)
    count = Field(ge=1, le=limits.max_images, description="Pictures; the k-th has seed + k.")
    model = Field(max_length=200, description="A name of GET /v1/models; by default the first.")
    made["num_images"] = (Annotated[int, count], 1)
    made["model"] = (Annotated[str | None, model], None)
    made["loras"] = (Annotated[list[LoraChoice], Field(max_length=8)], [])
    return create_model("DrawBody", __base__=Closed, __doc__="What to draw.", **made)


def is_open(name: str, hint: Any) -> bool:
    """Whether callers may send a field of `Request`: numbers, switches, choices, listed texts."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return True
    kinds = {a for a in arguments if a is not type(None)} if arguments else {hint}
    return kinds <= {int, float, bool} or (kinds == {str} and name in OPEN_TEXTS)


def _bounds(name: str, limits: Limits) -> dict[str, Any]:
    """What a value of a field must keep to, as the API's description says it."""
    finite = {"allow_inf_nan": False}
    bounds: dict[str, dict[str, Any]] = {
        "prompt": {"max_length": limits.max_prompt},
        "negative_prompt": {"max_length": limits.max_prompt},
        "seed": {"ge": -1, "le": SEED_MAX},
        "width": {"ge": 1, "le": min(8192, limits.max_pixels)},
        "height": {"ge": 1, "le": min(8192, limits.max_pixels)},
        "num_inference_steps": {"ge": 1, "le": limits.max_steps},
        "guidance_scale": {"ge": -100, "le": 100} | finite,
        "guidance_rescale": {"ge": 0, "le": 1} | finite,
        "guidance_start": {"ge": 0, "le": 1} | finite,
        "guidance_end": {"ge": 0, "le": 1} | finite,
        "eta": {"ge": 0, "le": 1} | finite,
        "clip_skip": {"ge": 0, "le": 24},
        "decode_tile": {"ge": 64, "le": 8192},
        "scheduler": {"max_length": 100},
    }
    return bounds.get(name, {})


def field_texts(cls: type) -> dict[str, str]:
    """Field → the text that stands below it in a dataclass's source."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            found[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


def job_view(job: Job, line: Line) -> JobView:
    """A job as it is now."""
    news, times = dict(job.news), dict(job.times)
    shown = job.state in ("running", "stopping")
    return JobView(
        id=job.id,
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
        notes=news.get("notes", []),
        error=job.error,
    )


def image_view(entry: Entry) -> ImageView:
    """A picture of the gallery."""
    recipe = dict(entry.recipe) if entry.recipe is not None else None
    return ImageView(
        id=entry.id, created=entry.created, width=entry.width, height=entry.height, recipe=recipe
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


def order_of(body: BaseModel) -> Order:
    """What a `DrawBody` asks for; UserError for what no model can draw."""
    values = body.model_dump()
    count, model = values.pop("num_images"), values.pop("model")
    loras = tuple((lora["name"], lora["scale"]) for lora in values.pop("loras"))
    template = Request.from_json(values)
    last = (template.seed or 0) + count - 1
    if last > SEED_MAX:
        raise UserError(f"the last picture's seed would be {last}; expected at most {SEED_MAX}")
    requests = several(template, [template.prompt], num_images_per_prompt=count)
    return Order(tuple(requests), model, loras)
