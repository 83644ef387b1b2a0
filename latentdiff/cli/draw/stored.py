"""Pictures that hold their recipes, for the commands that read them: found, opened, described."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import tyro

from latentdiff.cli.options import ModelOptions
from latentdiff.devices import DeviceName, DtypeName
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
        tyro.conf.arg(metavar="FILE[:SCALE]"),
    ] = ()
    """LoRAs in place of the recipe's. May be given several times."""
    variant: str | None = None
    """Which of several sets of weights it was drawn with."""
    vae: str | None = None
    """File or folder of another autoencoder that it was drawn with."""
    prediction_type: Prediction | None = None
    """What the U-Net predicts, if that was said when it was drawn."""
    embedding: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="FILE[:WORD]"),
    ] = ()
    """Learned words that it was drawn with. May be given several times."""
    dtype: DtypeName | None = None
    """Another number type."""
    device: DeviceName | None = None
    """Another device."""


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
    """The recipe's model with its LoRAs, where and as it was, unless the options say otherwise."""
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
    loras = options.lora or tuple(_lora(entry) for entry in recipe.loras)
    return loading.load(
        ModelOptions(
            model=model,
            variant=options.variant,
            vae=options.vae,
            prediction_type=options.prediction_type,
            lora=loras,
            embedding=options.embedding,
            dtype=options.dtype or _as_dtype(recipe.dtype),
            device=device,
        )
    )


def _as_device(kind: str) -> DeviceName:
    return cast("DeviceName", kind) if kind in ("cpu", "cuda", "mps") else "auto"


def _as_dtype(name: str) -> DtypeName:
    known = ("float32", "bfloat16", "float16")
    return cast("DtypeName", name) if name in known else "float32"


def _lora(entry: object) -> str:
    table = entry if isinstance(entry, dict) else {}
    file, scale = str(table.get("file", "")), table.get("scale", 1.0)
    if not file or not Path(file).exists():
        raise UserError(
            f"the recipe's LoRA {file or '(unnamed)'} is not there; give it by --lora FILE:{scale}"
        )
    return f"{file}:{scale}"


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
    yield f"model: {first.model}, {first.dtype} on {first.device}, {first.processor}".rstrip(", ")
    for part, digest in first.weights_sha256.items():
        yield f"  {part:<13} {digest}"
    for lora in first.loras:
        yield f"  LoRA {lora.get('file')}:{lora.get('scale')} {lora.get('sha256')}"
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
