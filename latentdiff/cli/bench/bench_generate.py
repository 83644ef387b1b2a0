"""`latentdiff bench generate`: pictures a second, against the peers, and whether they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from latentdiff import config
from latentdiff.cli.bench import common
from latentdiff.cli.bench.common import RaceOptions

PROG = "latentdiff bench generate"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is drawn, and who draws."""

    model: str = "snowglobe"
    """snowglobe, or a folder in diffusers format."""
    prompt: str = "a red fox in the snow"
    """What is drawn."""
    steps: int | None = None
    """Denoising steps; by default the model's own number."""
    size: int | None = None
    """Pixels of a side; by default the model's own size."""
    batch: int = 1
    """Pictures drawn at once."""
    race: RaceOptions = field(default_factory=RaceOptions)


def main(argv: Sequence[str]) -> int:
    """Race, print the tables, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Time drawing against the peers, on the same weights."
    )
    from latentdiff.bench import generation
    from latentdiff.bench.report import Report
    from latentdiff.bench.work import work_of

    work = work_of(options.model, options.prompt, options.steps, options.size, options.batch)
    found = generation.drawing_race(
        work,
        (generation.OURS, *generation.PEERS),
        repeats=options.race.repeats,
        warmups=options.race.warmups,
        threads=options.race.threads,
        say=common.say,
    )
    common.publish(Report(benchmark="generate", races=[found]), options.race.output)
    return 0
