"""`latentdiff evaluate compare A B`: two models on the same prompts and seeds, paired."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from latentdiff import config
from latentdiff.cli.evaluate import output, results
from latentdiff.cli.evaluate.results import ResultOptions
from latentdiff.cli.options import ModelOptions, SamplingOptions
from latentdiff.errors import UserError

PROG = "latentdiff evaluate compare"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which models."""

    first: tyro.conf.Positional[str]
    """snowglobe, a folder, a .safetensors checkpoint or a hub id."""
    second: tyro.conf.Positional[str]
    """The other one; with --lora, the LoRA lies on this one alone."""
    count: int = 64
    """Pictures of each."""
    scenes: int = 512
    """Of the world, from which distances are measured."""
    features: str = "snowglobe"
    """What compares: snowglobe's own CLIP image tower, or the folder or hub id of a transformers
    vision model."""
    judge: Path | None = None
    """Folder of the judge for both; by default the first model's own, else the second's."""
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


def main(argv: Sequence[str]) -> int:
    """Draw with both, print the paired differences, write the page; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Compare two models on the same prompts and seeds."
    )
    from latentdiff.evaluation import protocol
    from latentdiff.measure import vision_features
    from latentdiff.measure.measure_comparison import compare, comparison_report
    from latentdiff.measure.measured_model import both_draw
    from latentdiff.measure.picture_sets import DrawnPictures, Readers, gather, scenes_for

    features = vision_features.load(options.features)
    first = output.open_model(dataclasses.replace(options.networks, model=options.first, lora=()))
    second = output.open_model(dataclasses.replace(options.networks, model=options.second))
    judge = output.judge_of(first, options.judge) or output.judge_of(second, None)
    items = protocol.items(options.count, extras=False, subjects=both_draw(first, second))
    work = results.work_of(options.results, "compare", argv)
    sets = [
        DrawnPictures(
            model=model, items=items, drawing=output.drawing(options.sampling), name=model.name
        )
        for model in (first, second)
    ]
    found = gather(
        work,
        [scenes_for(first, options.scenes), *sets],
        Readers(features=features, judge=judge),
    )
    if not found:
        return 0
    scenes, one, other = found
    report = comparison_report(compare(one, other, scenes), items, features.name)
    return results.finish(report, options, options.results, "compare", [first, second])
