"""`latentdiff evaluate trials`: small trainings side by side, to see what a choice changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from latentdiff import config
from latentdiff.cli.evaluate import output, results
from latentdiff.cli.evaluate.results import ResultOptions
from latentdiff.cli.options import ModelOptions
from latentdiff.errors import UserError

PROG = "latentdiff evaluate trials"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which trainings. What is swept is a field of the recipe: prediction, weighting, gamma,
    schedule, timesteps, optimizer, learning_rate, muon_learning_rate, batch_size, samples,
    conditioning, seed."""

    sweep: Annotated[str, tyro.conf.arg(metavar="NAME=VALUE,VALUE,…")] = ""
    """prediction=epsilon,v_prediction,sample,posterior_mean, schedule=own,linear,cosine,su, …;
    with= sweeps whole settings: "with=weighting=simple|weighting=min_snr+gamma=5"."""
    base: Annotated[str, tyro.conf.arg(metavar="NAME=VALUE+…")] = ""
    """What all trainings share and the defaults do not: prediction=epsilon+samples=8000."""
    scenes: int = 1024
    """Scenes of 16 subjects in 4 settings that are learned from; the last 64 are held out."""
    count: int = 96
    """Pictures drawn of each."""
    features: str = "snowglobe"
    """What compares: snowglobe's own CLIP image tower, or the folder or hub id of a transformers
    vision model."""
    judge: Path | None = None
    """Folder of the judge; MODEL/judge if there is one."""
    results: ResultOptions = field(default_factory=ResultOptions)
    networks: ModelOptions = field(default_factory=lambda: ModelOptions(dtype="float32"))

    def __post_init__(self) -> None:
        if not self.sweep:
            raise UserError("nothing to sweep; give --sweep prediction=epsilon,v_prediction")
        if self.count < 8:
            raise UserError(f"count is {self.count}, expected at least 8")


def main(argv: Sequence[str]) -> int:
    """Train all, print the table, write the page; returns the exit code."""
    options = config.parse(
        Options,
        argv,
        prog=PROG,
        description="Train small networks side by side on a model's latents, at equal budget, and "
        "measure what a choice changes.",
    )
    from latentdiff.measure import vision_features
    from latentdiff.measure.trials.trial_data import trial_data
    from latentdiff.measure.trials.trial_recipe import TrialRecipe, recipes_of
    from latentdiff.measure.trials.trial_report import run_trials, trials_report
    from latentdiff.pipelines.sweep import parse_axis

    axis = parse_axis(options.sweep)
    base = TrialRecipe()
    if options.base:
        (base,) = recipes_of(base, parse_axis(f"with={options.base}"))
    named = list(zip(axis.values, recipes_of(base, axis), strict=True))
    features = vision_features.load(options.features)
    model = output.open_model(options.networks)
    work = results.work_of(options.results, "trials", argv, "updates")
    data = trial_data(model, options.scenes, work.store)
    judge = output.judge_of(model, options.judge)
    found = run_trials(model, data, named, options.count, features, judge, work)
    if not found:
        return 0
    report = trials_report(model, axis.name, found, data)
    return results.finish(report, options, options.results, "trials", [model])
