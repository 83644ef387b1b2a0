"""`latentdiff evaluate classes`: are the pictures of a class recognised as that class?

A small classifier is trained on labelled photographs, checked on others, and asked what generated
pictures show. Two models are judged by the same classifier on the same prompts and seeds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from latentdiff import config
from latentdiff.cli.evaluate import output
from latentdiff.cli.options import ModelOptions, SamplingOptions
from latentdiff.cli.outputs import Named
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.measure.measure_classes import JudgedPictures
    from latentdiff.measure.photo_classifier import Photographs, Trained

PROG = "latentdiff evaluate classes"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and by which classifier."""

    real: Path | None = None
    """Labelled photographs that the classifier learns from: a parquet file (or a folder of them)
    with picture bytes and a label column, or a folder with a folder for each class."""
    real_validation: Path | None = None
    """Other labelled photographs, to measure the classifier itself: the ceiling of all scores."""
    classifier: Path | None = None
    """Folder of the classifier: used when one is there, else trained on --real and kept there, so
    that later measurements are judged by the same one."""
    against: str | None = None
    """A second model to compare with, such as the one before fine-tuning: same prompts and seeds,
    a paired test."""
    pictures: Path | None = None
    """Judge these pictures instead of drawing any: a folder with a folder for each class."""
    against_pictures: Path | None = None
    """A second folder of pictures to compare with; the test is then unpaired."""
    count: int = 200
    """Pictures drawn of each model, spread evenly over the classes."""
    prompt: str | None = None
    """Prompt of every class, with {label} in it. Default: the class's most frequent caption in
    the photographs, or "a photo of a {label}"."""
    seed: int = 1_000_000
    """Picture n is drawn from this seed + n."""
    label_column: str | None = None
    """Column of the class in parquet files; default: label, class or category."""
    visits: int = 160_000
    """Pictures that the classifier sees in training, with repeats: 251 s of CPU time (Zen 4)."""
    json: Path | None = None
    """Write all numbers here."""
    output: Named = None
    """Write a grid here, a row for each class: green frames are recognised, red ones are not."""
    columns: int = 8
    """Pictures of each class on the grid; half of them the second model's where there is one."""
    sampling: SamplingOptions = field(
        default_factory=lambda: SamplingOptions(
            scheduler="ddim", prompt_syntax="plain", batch_size=16
        )
    )
    networks: ModelOptions = field(default_factory=ModelOptions)

    def __post_init__(self) -> None:
        for name in ("count", "columns", "visits"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.prompt is not None and "{label}" not in self.prompt:
            raise UserError(f"prompt is {self.prompt!r}; it needs {{label}} where the class goes")
        if self.real is None and self.classifier is None:
            raise UserError("no photographs to learn from; give --real PHOTOS (or --classifier)")
        if self.against_pictures is not None and self.pictures is None:
            raise UserError("against_pictures compares with pictures: give --pictures too")
        if self.pictures is not None and (self.against is not None or self.networks.lora):
            raise UserError("pictures are judged as they are: --against and --lora need a model")


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Ask a classifier what generated pictures show."
    )
    from latentdiff.measure import photo_classifier
    from latentdiff.measure.measure_classes import ClassesReport

    began = time.monotonic()
    found = find_classifier(options)
    ceiling = None
    if options.real_validation is not None:
        unseen = photographs(options, options.real_validation)
        ceiling = photo_classifier.score_photographs(found.classifier, unseen, print)
    report = ClassesReport(
        classifier=found.classifier,
        judged=judged(options, found),
        ceiling=ceiling,
        paired=options.pictures is None,
    )
    print(f"\n{report.table()}")
    if (sentence := report.sentence()) is not None:
        print(f"\n{sentence}")
    seconds = round(time.monotonic() - began, 1)
    output.write_json(options.json, {**report.to_json(), "seconds": seconds}, options)
    output.write_sheet(options.output, lambda: report.sheet(options.columns), "grid")
    return 0


def photographs(options: Options, where: Path) -> Photographs:
    """Labelled pictures, read as the options say."""
    from latentdiff.measure.photo_classifier import Photographs

    return Photographs(where=where, label_column=options.label_column)


def find_classifier(options: Options) -> Trained:
    """The classifier, loaded or trained, with a bar that shows how far its training is."""
    from tqdm import tqdm

    from latentdiff.measure import photo_classifier

    with tqdm(desc="classifier", unit="step", disable=None, delay=1) as bar:

        def progress(step: int, steps: int, loss: float) -> None:
            bar.total = steps
            bar.update(step - bar.n)
            bar.set_postfix_str(f"loss {loss:.3f}")

        return photo_classifier.find_classifier(
            None if options.real is None else photographs(options, options.real),
            options.classifier,
            visits=options.visits,
            say=print,
            progress=progress,
        )


def judged(options: Options, found: Trained) -> list[JudgedPictures]:
    """The model or the pictures, and what they are compared with."""
    from latentdiff.measure.measure_classes import class_items, judge_folder, judge_model

    if options.pictures is not None:
        folders = [options.pictures, options.against_pictures]
        return [judge_folder(f, found.classifier, print) for f in folders if f is not None]
    items = class_items(
        found.classifier.classes,
        options.count,
        prompt=options.prompt,
        captions=found.captions,
        seed=options.seed,
    )
    models = [options.networks]
    if options.against is not None:
        models.append(dataclasses.replace(options.networks, model=options.against, lora=()))
    return [
        judge_model(
            output.open_model(model), items, found.classifier, output.drawing(options.sampling)
        )
        for model in models
    ]
