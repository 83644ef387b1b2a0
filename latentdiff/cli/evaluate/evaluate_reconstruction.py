"""`latentdiff evaluate reconstruction`: to the noise by DDIM's inverse, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from latentdiff import config
from latentdiff.cli.evaluate import output, results
from latentdiff.cli.evaluate.results import ResultOptions
from latentdiff.cli.options import ModelOptions
from latentdiff.errors import UserError

PROG = "latentdiff evaluate reconstruction"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What goes there and back."""

    data: str = "scenes"
    """Pictures with captions (folder, parquet file, tar …), or scenes: unseen ones of the world."""
    count: int = 32
    """Pictures."""
    steps: tuple[int, ...] = (10, 20, 50, 100)
    """Numbers S of steps each way."""
    most_calls: int | None = None
    """Of the network for each S: a large S then takes fewer pictures, 4 at least."""
    guidance_scale: float = 1.0
    """Both ways; 1 asks the conditional network alone, which is what the inverse is exact for."""
    results: ResultOptions = field(default_factory=ResultOptions)
    networks: ModelOptions = field(default_factory=lambda: ModelOptions(dtype="float32"))

    def __post_init__(self) -> None:
        if self.count < 2:
            raise UserError(f"count is {self.count}, expected at least 2")
        if not self.steps or min(self.steps) < 1:
            raise UserError(f"steps are {list(self.steps)}, expected numbers of at least 1")


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write the page; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Reconstruction error of DDIM and its inverse."
    )
    from latentdiff.measure.measure_reconstruction import (
        ReconstructionSettings,
        measure_reconstruction,
        reconstruction_report,
    )

    settings = ReconstructionSettings(
        steps=options.steps, most_calls=options.most_calls, guidance_scale=options.guidance_scale
    )
    model = output.open_model(options.networks)
    pictures, items = output.captioned(options.data, options.count, model)
    work = results.work_of(options.results, "reconstruction", argv)
    found = measure_reconstruction(model, pictures, items, settings, work)
    if not found:
        return 0
    report = reconstruction_report(model, pictures.name, found)
    return results.finish(report, options, options.results, "reconstruction", [model])
