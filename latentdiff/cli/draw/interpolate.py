"""`latentdiff interpolate "a cat" "a dog" --seeds 1,2`: pictures on the way between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from latentdiff import config as configs
from latentdiff.cli import loading
from latentdiff.cli.options import ModelOptions, SamplingOptions
from latentdiff.cli.outputs import Named, Output
from latentdiff.cli.stages import Stages
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.pipelines.walk.batch import Picture

PROG = "latentdiff interpolate"
KINDS = (".webp", ".gif", ".mp4", ".png")
DESCRIPTION = """Draw the way from picture to picture: noise along the sphere from seed to seed,
prompts along the line between their contexts. Give two or more prompts, or seeds, or both."""


@dataclass(frozen=True, kw_only=True)
class InterpolateConfig:
    """What to walk through, and where to put it."""

    prompt: tyro.conf.Positional[tuple[str, ...]]
    """One prompt, or one for each stop on the way."""
    seeds: str = "0"
    """One seed, or one for each stop: 3,7,12."""
    frames: int = 8
    """Pictures from each stop to before the next."""
    loop: bool = False
    """Lead from the last stop to the first again."""
    output: Named = "interpolation.webp"
    """NAME.webp, NAME.gif or NAME.mp4 for moving pictures, NAME.png for a sheet, or a folder for
    each frame with its recipe."""
    fps: float = 8.0
    """Frames a second of moving pictures."""
    columns: int | None = None
    """Of a sheet; by default one row for each stretch."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    networks: ModelOptions = field(default_factory=lambda: ModelOptions(dtype="float32"))

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UserError('no prompt was given; try: latentdiff interpolate "a cat" "a dog"')
        if self.columns is not None and self.columns < 1:
            raise UserError(f"columns is {self.columns}; expected at least 1")
        place = self.place()
        if not place.is_folder and place.path.suffix.lower() not in KINDS:
            raise UserError(f"{place.path} is none of .webp, .gif, .mp4 and .png, and no folder")
        self.numbers()

    def place(self) -> Output:
        """Where it goes; a name without a suffix is a folder."""
        place = Output.of(self.output)
        return place if place.path.suffix else dataclasses.replace(place, is_folder=True)

    def numbers(self) -> list[int]:
        """The seeds."""
        try:
            return [int(part) for part in self.seeds.split(",")]
        except ValueError:
            raise UserError(
                f"seeds is {self.seeds!r}; expected whole numbers with commas between"
            ) from None


def main(argv: Sequence[str]) -> int:
    """Run `latentdiff interpolate` and return its exit code."""
    config = configs.parse(InterpolateConfig, argv, prog=PROG, description=DESCRIPTION)
    from latentdiff.pipelines.animation import check_animation
    from latentdiff.pipelines.interpolation import frames

    template = config.sampling.request()
    config.place().check(KINDS)
    if config.place().path.suffix.lower() == ".mp4":
        check_animation(config.place().path)
    requests = frames(template, config.prompt, config.numbers(), config.frames, loop=config.loop)
    pipeline = loading.load(config.networks)
    from latentdiff.pipelines.walk import notes

    resolved = pipeline.resolve(requests)
    loading.print_notes(notes.without_effect(pipeline.geometry, resolved))
    stages = Stages(len(requests))
    pictures = list(
        pipeline.draw(resolved, batch_size=config.sampling.batch_size, on_step=stages.step)
    )
    stages.clear()
    for path in write(pictures, config):
        print(path)
    return 0


def write(pictures: Sequence[Picture], config: InterpolateConfig) -> list[Path]:
    """The animation, the sheet or the frames; where they lie."""
    from latentdiff import sheet
    from latentdiff.pipelines.animation import save_animation
    from latentdiff.pipelines.recipes.picture_file import save_picture

    place, images = config.place(), [picture.image for picture in pictures]
    output, kept = place.path, [picture.recipe for picture in pictures]
    if place.is_folder:
        output.mkdir(parents=True, exist_ok=True)
        width = len(str(len(pictures) - 1))
        return [p.save(output / f"frame-{k:0{width}}.png") for k, p in enumerate(pictures)]
    if output.suffix.lower() == ".png":
        columns = config.columns or min(len(images), config.frames + (not config.loop))
        whole = sheet.contact_sheet(images, columns, margin=0, ground=(255, 255, 255))
        kept[0] = dataclasses.replace(kept[0], sheet={"columns": columns})
        return [save_picture(whole, output, kept)]
    return [save_animation(images, output, frames_per_second=config.fps, recipes=kept)]
