"""Pictures that hold their recipes, for the commands that read them: found, opened, described."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import tyro

from latentdiff.cli.options import ModelOptions
from latentdiff.devices import Backend, DeviceName, DtypeName
from latentdiff.diffusion.prediction_types import Prediction
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.pipelines.recipes.picture_file import Contents
    from latentdiff.pipelines.recipes.recipe import Recipe
    from latentdiff.pipelines.text_to_image import TextToImagePipeline


@dataclass(frozen=True, kw_only=True)
class StoredOptions:
    """With what to draw a stored picture again; by default, with what its recipe names."""

    model: str | None = None
    """Another model than the recipe's."""
    lora: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="FILE[:SCALE[:PART=SCALE,…]]"),
    ] = ()
    """LoRAs in place of the recipe's. May be given several times."""
    variant: str | None = None
    """Another of several sets of weights than the recipe's."""
    vae: str | None = None
    """File or folder of an autoencoder in place of the recipe's."""
    prediction_type: Prediction | None = None
    """What the U-Net predicts, in place of what was said when it was drawn."""
    embedding: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="FILE[:WORD]"),
    ] = ()
    """Learned words in place of the recipe's. May be given several times."""
    dtype: DtypeName | None = None
    """Another number type."""
    device: DeviceName | None = None
    """Another device."""
    backend: Backend | None = None
    """Another backend."""


def read(path: Path) -> Contents:
    """The picture with what it holds; what another program's settings lose is printed."""
    from latentdiff.cli.loading import print_notes
    from latentdiff.pipelines.recipes.picture_file import read_picture

    contents = read_picture(path)
    if contents.foreign is not None:
        print_notes(contents.foreign.notes)
    return contents


def recipes_of(contents: Contents, path: Path, model: str | None) -> list[Recipe]:
    """Its recipes, or one made of another program's settings and a model that was named."""
    from latentdiff.pipelines.recipes.recipe import Recipe

    if contents.recipes:
        return list(contents.recipes)
    if contents.foreign is None:
        raise UserError(f"{path} holds no recipe, and no settings of A1111 or ComfyUI")
    if model is None:
        name = contents.foreign.model
        raise UserError(
            f"{path} was drawn by {contents.foreign.program} with the model {name or '(unnamed)'}; "
            "say where that is: --model FOLDER"
        )
    return [Recipe(request=contents.foreign.request, model=model)]


def open_pipeline(recipe: Recipe, options: StoredOptions) -> TextToImagePipeline:
    """The recipe's model with its LoRAs and learned words, where and as it was, unless the options
    say otherwise. Another model is opened without the recipe's variant."""
    from latentdiff import devices
    from latentdiff.cli import loading

    model = options.model or recipe.model
    if model in ("", "in memory"):
        raise UserError("the recipe names no model that is kept anywhere; give one by --model")
    kind = recipe.device.partition(":")[0]
    device: DeviceName = options.device or _as_device(kind)
    if kind and options.device is None and not devices.has_device(kind):
        print(f"note: it was drawn on {recipe.device}, which is not here", file=sys.stderr)
        device = "auto"
    own_variant = None if options.model else recipe.variant or None
    return loading.load(
        ModelOptions(
            model=model,
            variant=options.variant or own_variant,
            vae=options.vae or recipe.vae or None,
            prediction_type=options.prediction_type or _as_prediction(recipe.prediction_type),
            lora=options.lora or tuple(_lora(entry) for entry in recipe.loras),
            embedding=options.embedding or tuple(_embedding(x) for x in recipe.embeddings),
            dtype=options.dtype or _as_dtype(recipe.dtype),
            device=device,
            backend=options.backend or _as_backend(recipe.backend),
        )
    )


def _as_device(kind: str) -> DeviceName:
    return cast("DeviceName", kind) if kind in ("cpu", "cuda", "mps") else "auto"


def _as_prediction(name: str) -> Prediction | None:
    return cast("Prediction", name) if name in get_args(Prediction) else None


def _as_backend(name: str) -> Backend:
    return cast("Backend", name) if name in get_args(Backend) else "torch"


def _as_dtype(name: str) -> DtypeName:
    known = ("float32", "bfloat16", "float16")
    return cast("DtypeName", name) if name in known else "float32"


def _lora(entry: Mapping[str, Any]) -> str:
    """A recipe's LoRA as an option names it."""
    file, scale, blocks = entry.get("file"), entry.get("scale", 1.0), entry.get("blocks", {})
    if not isinstance(blocks, dict):
        raise UserError(f"the recipe's LoRA {file} has scales of parts that are no table")
    parts = ",".join(f"{name}={value}" for name, value in blocks.items())
    ending = f":{scale}" + (f":{parts}" if parts else "")
    if not file or not Path(str(file)).exists():
        raise UserError(
            f"the recipe's LoRA {file or '(unnamed)'} is not there; give it by --lora FILE{ending}"
        )
    return f"{file}{ending}"


def _embedding(entry: Mapping[str, Any]) -> str:
    """A recipe's learned word as an option names it."""
    file, token = entry.get("file"), entry.get("token", "")
    if not file or not Path(str(file)).exists():
        raise UserError(
            f"the recipe's embedding {file or '(unnamed)'} is not there; give it by "
            f"--embedding FILE:{token}"
        )
    return f"{file}:{token}"


def describe(contents: Contents) -> Iterator[str]:
    """What a picture holds, for `latentdiff info`."""
    yield f"{contents.image.width} x {contents.image.height} pixels"
    if contents.foreign is not None:
        foreign = contents.foreign
        yield f"drawn by {foreign.program}, model {foreign.model or 'unnamed'}"
        yield from _table(foreign.request.to_json())
        return
    if not contents.recipes:
        yield "no recipe, and no settings of A1111 or ComfyUI"
        return
    first, count = contents.recipes[0], len(contents.recipes)
    if count > 1:
        yield f"a grid of {count} pictures; the first:"
    computed = f"{first.dtype} on {first.device}"
    if first.backend not in ("", "torch"):
        computed += f" by {first.backend}"
    told = (computed, first.processor, first.instruction_set)
    variant = f" ({first.variant})" if first.variant else ""
    yield ", ".join(part for part in (f"model: {first.model}{variant}", *told) if part)
    if first.vae:
        yield f"autoencoder: {first.vae}"
    for part, digest in first.weights_sha256.items():
        yield f"  {part:<13} {digest}"
    for lora in first.loras:
        yield f"  LoRA {lora.get('file')}:{lora.get('scale')} {lora.get('sha256')}"
        for part, scale in dict(lora.get("blocks") or {}).items():
            yield f"    {part} × {scale}"
    for word in first.embeddings:
        yield f"  embedding {word.get('token')!r} {word.get('file')} {word.get('sha256')}"
    yield from _table(first.request.to_json())
    yield "versions: " + ", ".join(f"{k} {v}" for k, v in first.versions.items())


def _table(values: dict[str, object]) -> Iterator[str]:
    for key, value in values.items():
        if key != "schema" and value not in (None, ""):
            wrapped = textwrap.wrap(str(value), 76) or [""]
            yield f"{key + ':':<22}{wrapped[0]}"
            yield from (f"{'':<22}{line}" for line in wrapped[1:])


def with_request(recipes: Sequence[Recipe], settings: Sequence[str]) -> list[Recipe]:
    """The recipes with `--set` settings in their requests."""
    from latentdiff.pipelines.replay import changed

    return [dataclasses.replace(r, request=changed(r.request, settings)) for r in recipes]
