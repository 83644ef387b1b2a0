"""`latentdiff bench startup`: from the shell to a picture on disk, and opening a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from latentdiff import config
from latentdiff.cli.bench import common
from latentdiff.cli.bench.common import RaceOptions

PROG = "latentdiff bench startup"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is opened and drawn."""

    model: str = "snowglobe"
    """Of the cold start: snowglobe, or a folder in diffusers format."""
    open: tuple[str, ...] = ()
    """Further folders whose opening is timed; `bench weights` writes one of Stable Diffusion 1.5's
    shape."""
    prompt: str = "a red fox in the snow"
    """What is drawn."""
    steps: int | None = None
    """Denoising steps; by default the model's own number."""
    race: RaceOptions = field(default_factory=RaceOptions)


def main(argv: Sequence[str]) -> int:
    """Race, print the tables, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Time cold starts and opening, against diffusers."
    )
    from latentdiff.bench.drawing import starting
    from latentdiff.bench.drawing.work import work_of
    from latentdiff.bench.report import Report

    works = [
        work_of(m, options.prompt, options.steps, None, 1) for m in (options.model, *options.open)
    ]
    how = {"repeats": options.race.repeats, "threads": options.race.threads}
    races = [
        starting.cold(works[0], say=common.say, **how),
        *starting.opening([work.model for work in works], say=common.say, **how),
    ]
    common.publish(Report(benchmark="startup", races=races), options.race.output)
    return 0
