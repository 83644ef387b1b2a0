"""Many pictures: sweeps that make a labelled grid, long runs that go on where they stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from PIL import Image

from latentdiff import files
from latentdiff.cli.outputs import Output
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.cli.options import SamplingOptions
    from latentdiff.cli.stages import Stages
    from latentdiff.pipelines.request import Request
    from latentdiff.pipelines.sweep import Axis
    from latentdiff.pipelines.text_to_image import TextToImagePipeline


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """Many pictures."""

    sweep: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="NAME=VALUE,VALUE,…"),
    ] = ()
    """Draw the picture with each value of an option (steps, guidance_scale, seed, scheduler,
    strength …) and put all in a labelled grid; given twice, the second names the rows. Values that
    hold commas are parted by bars: --sweep "prompt=a cat|a dog". What is drawn already is kept."""
    resume: bool = False
    """Leave out pictures that lie in the output folder already, as after an interrupted run; needs
    --seed."""

    def __post_init__(self) -> None:
        self.axes()

    def axes(self) -> list[Axis]:
        """The sweeps, read; UserError for what cannot be."""
        if not self.sweep:
            return []
        from latentdiff.pipelines.sweep import parse_axis

        return [parse_axis(text) for text in self.sweep]


@dataclass(frozen=True)
class Share:
    """Which of several processes draws: pictures rank, rank + count, … of all."""

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise UserError(f"process {self.rank} of {self.count} is none; expected 0 … count - 1")


def check_resumable(resume: bool, share: Share, seed: int | None, output: str | None) -> None:
    """UserError unless file names say which picture they are."""
    if not resume and share.count == 1:
        return
    why = "--resume" if resume else f"{share.count} processes"
    if seed in (None, -1):
        raise UserError(f"{why} needs --seed, or no picture is the same again")
    place = Output.of(output)
    if output is None or (place.path.suffix and not place.is_folder):
        raise UserError(f"{why} needs a folder for the pictures; give one with -o")
    files.refuse_file_for_folder(place.path)
    place.path.mkdir(parents=True, exist_ok=True)


def missing(
    pipeline: TextToImagePipeline, requests: Sequence[Request], places: Sequence[Path]
) -> list[int]:
    """Which pictures are still to be drawn; UserError where another one lies in a place."""
    from latentdiff.pipelines.sweep import stands

    found = []
    for k, (request, place) in enumerate(zip(requests, places, strict=True)):
        if not place.exists():
            found.append(k)
        elif not stands(place, pipeline.recipe(request)):
            raise UserError(
                f"{place} holds another picture than this run would draw; "
                "choose another folder, or remove it"
            )
    return found


def sweep(
    pipeline: TextToImagePipeline,
    requests: Sequence[Request],
    options: BulkOptions,
    output: Output,
    sampling: SamplingOptions,
    stages: Stages,
) -> Path:
    """Draw a sweep's pictures and its labelled grid; the grid's place.

    The pictures are kept in a folder beside the grid, under names that say what made them, and are
    not drawn again there.
    """
    from latentdiff import sheet
    from latentdiff.pipelines import sweep as sweeps
    from latentdiff.pipelines.recipes.picture_file import read_recipe, save_picture

    if len(requests) != 1:
        raise UserError(f"a sweep is of one picture, not of {len(requests)}; give one prompt")
    axes = options.axes()
    cells = pipeline.resolve(sweeps.cells(requests[0], axes))
    grid = output.file("sweep.png")
    folder = grid.with_name(f"{grid.stem}-cells")
    folder.mkdir(parents=True, exist_ok=True)
    recipes = [pipeline.recipe(request) for request in cells]
    places = [folder / f"{sweeps.digest(recipe)}.png" for recipe in recipes]
    todo = [
        k for k, (p, r) in enumerate(zip(places, recipes, strict=True)) if not sweeps.stands(p, r)
    ]
    stages.count = len(todo)
    drawn = pipeline.draw(
        [cells[k] for k in todo], batch_size=sampling.batch_size, on_step=stages.step
    )
    for k, picture in zip(todo, drawn, strict=True):
        picture.save(places[k])
    stages.clear()
    images = []
    for place in places:
        with Image.open(place) as image:
            images.append(image.convert("RGB"))
    rows = axes[1].labels() if len(axes) > 1 else [""]
    whole = sheet.axes_sheet(images, axes[0].labels(), rows)
    kept = [read_recipe(place) for place in places]
    kept[0] = dataclasses.replace(kept[0], sheet={"columns": axes[0].labels(), "rows": rows})
    return save_picture(whole, grid, kept)
