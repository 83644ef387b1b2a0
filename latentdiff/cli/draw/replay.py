"""`latentdiff replay cat.png`: draw a picture again from what it holds, as it was or changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from latentdiff import config as configs
from latentdiff.cli.draw.stored import StoredOptions
from latentdiff.cli.outputs import Named, Output
from latentdiff.errors import UserError
from latentdiff.pipelines.recipes.formats import SUFFIXES


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Which picture, what to change, where to put the new one."""

    picture: tyro.conf.Positional[Path | None] = None
    """PNG, JPEG or WebP drawn here, or by A1111 or ComfyUI (then with --model)."""
    set: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")
    ] = ()
    """A setting to change: --set guidance_scale=5 --set seed=4. May be given several times."""
    output: Named = None
    """File or folder; by default a fresh name made of the prompt and the seed."""
    stored: StoredOptions = field(default_factory=StoredOptions)


def main(argv: Sequence[str]) -> int:
    """Run `latentdiff replay` and return its exit code."""
    config = configs.parse(
        ReplayConfig, argv, prog="latentdiff replay", description="Draw a picture again."
    )
    if config.picture is None:
        raise UserError("no picture was given; try: latentdiff replay cat.png")
    from latentdiff.cli.draw import generate, stored

    output = Output.of(config.output)
    output.check(SUFFIXES)
    found = stored.recipes_of(stored.read(config.picture), config.picture, config.stored.model)
    recipes = stored.with_request(found, config.set)
    pipeline = stored.open_pipeline(recipes[0], config.stored)
    from latentdiff.pipelines import replay
    from latentdiff.pipelines.recipes.picture_file import save_picture

    pictures = replay.as_drawn(pipeline, recipes)
    first = pictures[0].request
    name = f"{generate.slug(first.prompt)}-{'grid' if len(pictures) > 1 else first.seed}"
    path = output.fresh(name, ".png")
    kept = [picture.recipe for picture in pictures]
    sheet = recipes[0].sheet
    kept[0] = dataclasses.replace(kept[0], sheet=sheet)
    whole = replay.together(pictures, sheet)
    print(save_picture(whole, path, kept if len(kept) > 1 or sheet else kept[0]))
    return 0
