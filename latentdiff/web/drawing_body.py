"""The body of `POST /v1/images`: the open fields of `Request`, within a server's limits.

Fields that hold files of the server stay closed: a caller names a picture to start from, and its
mask, by the ids of uploads or of pictures of the gallery.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from latentdiff.errors import UserError, unknown_name
from latentdiff.pipelines.request import Request, draw_seed, several
from latentdiff.pipelines.request_records import Blend, Inpaint, Inversion, Source, Upscale
from latentdiff.pipelines.sweep import Axis, cells, parse_axis
from latentdiff.schedulers import names
from latentdiff.web.artist import Order
from latentdiff.web.limits import Limits

OPEN_TEXTS = ("prompt", "negative_prompt", "scheduler")
"""Texts of a request that callers may send. Others may name files of the server, and stay closed
until they are listed here; numbers, switches and choices are open by themselves."""
IDS = ("image", "mask")
"""Texts of records that name files in a request, and ids in the API."""
RECORDS: tuple[type, ...] = (Source, Inpaint, Inversion, Blend, Upscale)
"""Records that callers may send, without the hashes in them."""
PICTURE_ID = r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,209})?$"
SEED_MAX = 2**32 - 1
SWEPT = (
    *("prompt", "negative_prompt", "seed", "width", "height", "num_inference_steps", "eta"),
    *("guidance_scale", "guidance_rescale", "scheduler", "clip_skip", "source.strength"),
    *("source.inversion.prompt", "blend.amount", "blend.seed", "upscale.scale"),
    "upscale.strength",
)
"""Fields that a sweep may vary: none that names a file."""
FINITE = {"allow_inf_nan": False}


class Closed(BaseModel):
    """A body that knows all its keys, and takes no text or switch for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LoraChoice(Closed):
    """A LoRA and how strongly to apply it."""

    name: Annotated[str, Field(max_length=200, description="A name of GET /v1/loras.")]
    scale: Annotated[
        float, Field(ge=-4, le=4, allow_inf_nan=False, description="1 is as it was trained.")
    ] = 1.0


def draw_body(limits: Limits) -> type[BaseModel]:
    """The body of `POST /v1/images` within a server's limits."""
    made = _fields(Request, _bounds(limits), limits)
    count = Field(
        ge=1,
        le=limits.max_images,
        description="Pictures; the k-th has seed + k, or with a blend's seed that one + k.",
    )
    model = Field(max_length=200, description="A name of GET /v1/models; by default the first.")
    axis = Annotated[str, Field(max_length=limits.max_prompt)]
    sweep = Field(
        max_length=2,
        description='One or two of "NAME=VALUE,VALUE,…" (or with | between values that hold '
        "commas): a grid of every combination, the first across.",
    )
    made["num_images"] = (Annotated[int, count], 1)
    made["sweep"] = (Annotated[list[axis], sweep], [])
    made["model"] = (Annotated[str | None, model], None)
    made["loras"] = (Annotated[list[LoraChoice], Field(max_length=8)], [])
    return create_model("DrawBody", __base__=Closed, __doc__="What to draw.", **made)


def _fields(cls: type, bounds: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The open fields of a record as pydantic takes them: name → (type, default and bounds)."""
    said, hints, made = field_texts(cls), typing.get_type_hints(cls), dict[str, Any]()
    for field in dataclasses.fields(cls):
        hint, told, most = hints[field.name], said.get(field.name), bounds.get(field.name, {})
        record = next((r for r in RECORDS if r in typing.get_args(hint)), None)
        if record is not None:
            hint = record_body(record, limits) | None
        elif cls is not Request and field.name in IDS:
            told = "The id of an upload or of a picture of the gallery."
            most = {"pattern": PICTURE_ID, "max_length": 210}
        elif not is_open(field.name, hint):
            continue
        if field.name == "scheduler":
            told = f"{told} Known: {', '.join(names.known_names())}."
        default = ... if field.default is dataclasses.MISSING else field.default
        if field.name == "expand":
            side = Annotated[int, Field(ge=0, le=1024, strict=True)]
            hint, most = tuple[side, side, side, side], {"strict": False}  # JSON's lists
        made[field.name] = (hint, Field(default, description=told, **most))
    return made


def record_body(cls: type, limits: Limits) -> type[BaseModel]:
    """One of `RECORDS` as a body."""
    made = _fields(cls, _record_bounds(limits)[cls], limits)
    return create_model(f"{cls.__name__}Body", __base__=Closed, __doc__=cls.__doc__, **made)


def is_open(name: str, hint: Any) -> bool:
    """Whether callers may send a field: numbers, switches, choices, listed texts."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return True
    if name == "expand":
        return True
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = {a for a in arguments if a is not type(None)} if union else {hint}
    return kinds <= {int, float, bool} or (kinds == {str} and name in OPEN_TEXTS)


def _bounds(limits: Limits) -> dict[str, dict[str, Any]]:
    """What a value of a request's field must keep to, as the API's description says it."""
    return {
        "prompt": {"max_length": limits.max_prompt},
        "negative_prompt": {"max_length": limits.max_prompt},
        "seed": {"ge": -1, "le": SEED_MAX},
        "width": {"ge": 1, "le": min(8192, limits.max_pixels)},
        "height": {"ge": 1, "le": min(8192, limits.max_pixels)},
        "num_inference_steps": {"ge": 1, "le": limits.max_steps},
        "guidance_scale": {"ge": -100, "le": 100} | FINITE,
        "guidance_rescale": {"ge": 0, "le": 1} | FINITE,
        "guidance_start": {"ge": 0, "le": 1} | FINITE,
        "guidance_end": {"ge": 0, "le": 1} | FINITE,
        "deep_cache_interval": {"ge": 1, "le": 100},
        "eta": {"ge": 0, "le": 1} | FINITE,
        "clip_skip": {"ge": 0, "le": 24},
        "decode_tile": {"ge": 64, "le": 8192},
        "scheduler": {"max_length": 100},
    }


def _record_bounds(limits: Limits) -> dict[type, dict[str, dict[str, Any]]]:
    """The same of the records."""
    share = {"gt": 0, "le": 1} | FINITE
    text = {"max_length": limits.max_prompt}
    return {
        Source: {"strength": share},
        Inpaint: {
            "feather": {"ge": 0, "le": 64},
            "padding": {"ge": 0, "le": 1024},
            "resample": {"ge": 1, "le": 8},
        },
        Inversion: {"prompt": text, "guidance_scale": {"ge": 0, "le": 100} | FINITE},
        Blend: {
            "seed": {"ge": 0, "le": SEED_MAX},
            "prompt": text,
            "amount": {"ge": 0, "le": 1} | FINITE,
        },
        Upscale: {"scale": {"gt": 1, "le": 4} | FINITE, "strength": share},
    }


def field_texts(cls: type) -> dict[str, str]:
    """Field → the text that stands below it in a dataclass's source."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            found[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


# What a body asks for


def order_of(body: BaseModel, find_picture: Callable[[str], Path], limits: Limits) -> Order:
    """What a `DrawBody` asks for; UserError for what no model can draw.

    find_picture: the file of a picture's id; UserError when there is none.
    """
    values = body.model_dump()
    count, model = values.pop("num_images"), values.pop("model")
    loras = tuple((lora["name"], lora["scale"]) for lora in values.pop("loras"))
    axes = tuple(parse_axis(text) for text in values.pop("sweep"))
    template = Request.from_json(_with_files(values, find_picture))
    if axes:
        if count > 1:
            raise UserError("a sweep draws one picture a place; leave num_images at 1")
        return Order(tuple(_swept(type(body), template, axes, limits)), model, loras, axes)
    return Order(tuple(_several(template, count)), model, loras)


def _with_files(values: dict[str, Any], find_picture: Callable[[str], Path]) -> dict[str, Any]:
    """The body's values with files in place of ids."""
    source = values.get("source")
    if source is not None:
        if not source["image"]:
            raise UserError("source names no picture; send one to POST /v1/uploads and give its id")
        source["image"] = str(find_picture(source["image"]))
        if source["inpaint"] is not None and source["inpaint"]["mask"]:
            source["inpaint"]["mask"] = str(find_picture(source["inpaint"]["mask"]))
    return values


def _several(template: Request, count: int) -> list[Request]:
    """One request after another, of the seeds that follow; of a variation, its own seeds do."""
    blend = template.blend
    first = (template if blend is None or blend.seed is None else blend).seed or 0
    if first + count - 1 > SEED_MAX:
        last = first + count - 1
        raise UserError(f"the last picture's seed would be {last}; expected at most {SEED_MAX}")
    if blend is None or blend.seed is None:
        return several(template, [template.prompt], num_images_per_prompt=count)
    seed = draw_seed() if template.seed is None else template.seed
    blends = [dataclasses.replace(blend, seed=first + k) for k in range(count)]
    return [dataclasses.replace(template, seed=seed, blend=one) for one in blends]


def _swept(
    body: type[BaseModel], template: Request, axes: tuple[Axis, ...], limits: Limits
) -> list[Request]:
    """The sweep's requests, each within the limits of a single one."""
    for axis in axes:
        if axis.field not in SWEPT:
            raise unknown_name("field of a sweep", axis.name, [f.rpartition(".")[2] for f in SWEPT])
    count = len(axes[0].values) * (len(axes[1].values) if len(axes) > 1 else 1)
    if count > limits.max_sweep:
        raise UserError(f"this sweep makes {count} pictures; at most {limits.max_sweep} are drawn")
    if template.seed is None:
        template = dataclasses.replace(template, seed=draw_seed())
    found = cells(template, axes)
    for request in found:
        told = request.to_json()
        try:
            body.model_validate({k: told[k] for k in body.model_fields if k in told} | NO_SOURCE)
        except ValidationError as error:
            raise UserError(said_of(error.errors()[0])) from error
    return found


NO_SOURCE: dict[str, Any] = {"source": None}


def said_of(problem: Mapping[str, Any]) -> str:
    """What is wrong with a body or a parameter, as pydantic found it, in one sentence."""
    where = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path"))
    reason = str(problem["msg"])[:1].lower() + str(problem["msg"])[1:]
    return f"{where}: {reason}" if where else f"the request cannot be read: {reason}"
