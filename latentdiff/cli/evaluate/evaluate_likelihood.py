"""`latentdiff evaluate likelihood`: the variational bound of a model, term by term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from latentdiff import config
from latentdiff.cli.evaluate import output, results
from latentdiff.cli.evaluate.results import ResultOptions
from latentdiff.cli.options import ModelOptions
from latentdiff.errors import UserError

PROG = "latentdiff evaluate likelihood"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Whose likelihood, of what."""

    data: str = "scenes"
    """Pictures with captions (folder, parquet file, tar …), or scenes: unseen ones of the world."""
    count: int = 64
    """Pictures."""
    levels: tuple[int, ...] = (100, 200, 1000)
    """Numbers T of levels of the hierarchy."""
    terms: int = 16
    """Middle terms that are drawn for each picture, one from each of as many equal parts."""
    variance: str = "fixed_small"
    """σ² of a step: fixed_small (β̃) or fixed_large (β)."""
    results: ResultOptions = field(default_factory=ResultOptions)
    networks: ModelOptions = field(default_factory=lambda: ModelOptions(dtype="float32"))

    def __post_init__(self) -> None:
        if self.count < 2:
            raise UserError(f"count is {self.count}, expected at least 2")
        if not self.levels:
            raise UserError("no number of levels was given; for example --levels 100 1000")


def main(argv: Sequence[str]) -> int:
    """Measure, print the terms, write the page; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="The variational bound of a model's latents."
    )
    from latentdiff.measure.measure_likelihood import (
        LikelihoodSettings,
        likelihood_report,
        measure_likelihood,
    )

    settings = LikelihoodSettings(
        levels=options.levels, terms=options.terms, variance=options.variance
    )
    model = output.open_model(options.networks)
    pictures, items = output.captioned(options.data, options.count, model)
    work = results.work_of(options.results, "likelihood", argv)
    found = measure_likelihood(model, pictures, items, settings, work)
    if not found:
        return 0
    report = likelihood_report(model, pictures.name, found, settings)
    return results.finish(report, options, options.results, "likelihood", [model])
