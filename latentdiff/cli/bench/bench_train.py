"""`latentdiff bench train`: samples a second of fine-tuning, against diffusers' example."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from latentdiff import config
from latentdiff.cli.bench import common
from latentdiff.cli.bench.common import RaceOptions
from latentdiff.errors import UserError

PROG = "latentdiff bench train"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is trained, on what."""

    model: str = "snowglobe"
    """snowglobe, or a folder in diffusers format."""
    rows: int = 64
    """Captioned scenes that are rendered for it."""
    size: int | None = None
    """Pixels of a side; by default the model's own size."""
    batch: int = 16
    """Pictures of an update."""
    steps: int = 4
    """Updates of a turn."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Autocast of every entrant's forward pass; the example's frozen networks are stored in it."""
    parts: bool = False
    """Instead of the race: where the time of this project's own update goes, by parts."""
    race: RaceOptions = field(default_factory=RaceOptions)


def main(argv: Sequence[str]) -> int:
    """Race, print the tables, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Time fine-tuning against diffusers' public example."
    )
    if options.rows < options.batch:
        raise UserError(f"rows is {options.rows}, fewer than the {options.batch} of a batch")
    from latentdiff.bench.drawing.work import work_of
    from latentdiff.bench.report import Report
    from latentdiff.bench.training.parts import parts
    from latentdiff.bench.training.training_race import training_race
    from latentdiff.bench.training.training_work import TrainingWork
    from latentdiff.scenes.export import export
    from latentdiff.scenes.world import World

    drawn = work_of(options.model, "", None, options.size, 1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "scenes"
        common.say(f"rendering {options.rows} scenes")
        export(data, World(0, size=drawn.width), options.rows)
        work = TrainingWork(
            model=drawn.model,
            data=str(data),
            folder=folder,
            size=drawn.width,
            batch_size=options.batch,
            steps=options.steps,
            mixed_precision=options.mixed_precision,
        )
        if options.parts:
            found = parts(
                work,
                repeats=options.race.repeats,
                warmups=options.race.warmups,
                threads=options.race.threads,
                say=common.say,
            )
        else:
            found = training_race(
                work,
                rows=options.rows,
                repeats=options.race.repeats,
                warmups=options.race.warmups,
                threads=options.race.threads,
                say=common.say,
            )
    name = "train-parts" if options.parts else "train"
    common.publish(Report(benchmark=name, races=[found]), options.race.output)
    return 0
