"""`latentdiff evaluate sweep`: a grid over settings, and how good the pictures of each cell are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from latentdiff import config
from latentdiff.cli.evaluate import output, results
from latentdiff.cli.evaluate.results import ResultOptions
from latentdiff.cli.options import ModelOptions, SamplingOptions
from latentdiff.errors import UserError

PROG = "latentdiff evaluate sweep"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which grid."""

    sweep: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="NAME=VALUE,VALUE,…"),
    ] = ()
    """One axis, such as steps=10,20,50, eta=0,1, guidance_scale=1,2,4, scheduler=ddim,unipc; give
    it twice for a grid. with= sweeps whole settings: "with=eta=0|eta=1|scheduler=ddim-sigma-hat",
    several joined by +."""
    reference: str | None = None
    """Compare pictures with those of the cell that has this value, steps=1000 for example."""
    count: int = 64
    """Pictures of each cell."""
    most_calls: int | None = None
    """Of the network in a cell: costly cells then draw fewer pictures, 8 at least."""
    scenes: int = 512
    """Of the world, from which distances are measured."""
    features: str = "snowglobe"
    """What compares: snowglobe's own CLIP image tower, or the folder or hub id of a transformers
    vision model."""
    judge: Path | None = None
    """Folder of the judge; MODEL/judge if there is one."""
    results: ResultOptions = field(default_factory=ResultOptions)
    sampling: SamplingOptions = field(
        default_factory=lambda: SamplingOptions(
            scheduler="ddim", prompt_syntax="plain", batch_size=16
        )
    )
    networks: ModelOptions = field(default_factory=ModelOptions)

    def __post_init__(self) -> None:
        for name in ("count", "scenes"):
            if getattr(self, name) < 4:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 4")
        if not self.sweep:
            raise UserError("nothing to sweep; give --sweep steps=10,20,50, for example")


def main(argv: Sequence[str]) -> int:
    """Measure the grid, print the table, write the page; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Measure pictures over a grid of settings."
    )
    from latentdiff.evaluation import protocol
    from latentdiff.measure import vision_features
    from latentdiff.measure.picture_sets import Readers, scenes_for
    from latentdiff.measure.sweeps import measure_sweep as sweeps
    from latentdiff.measure.sweeps.sweep_report import sweep_report
    from latentdiff.pipelines.sweep import parse_axis

    axes = sweeps.parse_axes(options.sweep)
    features = vision_features.load(options.features)
    model = output.open_model(options.networks)
    base = options.sampling.request()
    cells = sweeps.make_cells(base, axes, model, options.count, options.most_calls)
    reference = None
    if options.reference is not None:
        wanted = parse_axis(options.reference)
        reference = {wanted.name: wanted.values[0]}
    work = results.work_of(options.results, "sweep", argv)
    found = sweeps.measure_sweep(
        model,
        protocol.items(options.count, extras=False, subjects=model.subjects),
        cells,
        scenes_for(model, options.scenes),
        Readers(features=features, judge=output.judge_of(model, options.judge)),
        work,
        batch_size=options.sampling.batch_size,
        reference_cell=reference,
    )
    if not found:
        return 0
    report = sweep_report(
        model, axes, found, reference="scenes", features=features.name, scenes=options.scenes
    )
    return results.finish(report, options, options.results, "sweep", [model])
