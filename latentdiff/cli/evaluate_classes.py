"""`latentdiff evaluate classes`: are the pictures of a class recognised as that class?

A small classifier is trained on labelled photographs, checked on others, and asked what generated
pictures show. Two models are judged by the same classifier on the same prompts and seeds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from latentdiff import __version__, config, files
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.data.sources.labelled import Labelled
    from latentdiff.evaluation.classes import ClassScores, Comparison, PhotoClassifier
    from latentdiff.evaluation.protocol import Item

PROG = "latentdiff evaluate classes"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `latentdiff evaluate classes`."""

    real: Path | None = None
    """Labelled photographs that the classifier learns from: a parquet file (or a folder of them)
    with picture bytes and a label column, or a folder with a folder for each class."""
    real_validation: Path | None = None
    """Other labelled photographs, to measure the classifier itself: the ceiling of all scores."""
    classifier: Path | None = None
    """Folder of the classifier: used when one is there, else trained on --real and kept there, so
    that later measurements are judged by the same one."""
    model: str = "snowglobe"
    """The model: its name, a diffusers folder, or a hub id."""
    lora: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """LoRA file over the model, FILE or FILE:scale; may be given several times."""
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
    steps: int | None = None
    """Denoising steps; the model's own default if not given."""
    guidance_scale: float | None = None
    """Guidance; the model's own default if not given."""
    scheduler: str = "ddim"
    """Scheduler, as for `latentdiff generate`."""
    batch_size: int = 16
    """Pictures drawn at a time; they do not depend on it, up to rounding."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the networks; auto is bfloat16 where the processor computes in it."""
    device: str = "auto"
    """Where to draw; auto takes the accelerator when there is one."""
    label_column: str | None = None
    """Column of the class in parquet files; default: label, class or category."""
    visits: int = 160_000
    """Pictures that the classifier sees in training, with repeats: 251 s of CPU time (Zen 4)."""
    json: Path | None = None
    """Write all numbers here."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write a grid here, a row for each class: green frames are recognised, red ones are not."""
    columns: int = 8
    """Pictures of each class on the grid; half of them the second model's where there is one."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("count", "batch_size", "columns", "visits"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps is {self.steps}, expected at least 1")
        if self.prompt is not None and "{label}" not in self.prompt:
            raise UserError(f"prompt is {self.prompt!r}; it needs {{label}} where the class goes")
        if self.real is None and self.classifier is None:
            raise UserError("no photographs to learn from; give --real PHOTOS (or --classifier)")
        if self.against_pictures is not None and self.pictures is None:
            raise UserError("against_pictures compares with pictures: give --pictures too")
        if self.pictures is not None and (self.against is not None or self.lora):
            raise UserError("pictures are judged as they are: --against and --lora need a model")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One model's pictures under measurement, in the order of `wanted`."""

    name: str
    pictures: list[Image.Image]
    wanted: tuple[str, ...]
    scores: ClassScores
    hashes: dict[str, str]


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Ask a classifier what generated pictures show."
    )
    from latentdiff.evaluation import classes

    began = time.monotonic()
    classifier, captions = the_classifier(options)
    ceiling = on_real(options, classifier)
    columns = measured(options, classifier, captions)
    comparison: Comparison | None = None
    if len(columns) == 2:
        first, second = columns
        paired = options.pictures is None
        comparison = classes.compare(first.scores, second.scores, paired=paired)
    print(print_table(columns, ceiling))
    if comparison is not None:
        print("\n" + say(comparison))
    seconds = round(time.monotonic() - began, 1)
    if options.json is not None:
        report = {
            "measurement": "classes",
            "version": __version__,
            "options": config.to_dict(options),
            "classifier": {"classes": list(classifier.classes), "facts": classifier.facts},
            "real": None if ceiling is None else ceiling.to_json(),
            "models": [{"name": c.name, "hashes": c.hashes, **c.scores.to_json()} for c in columns],
            "comparison": None if comparison is None else comparison.to_json(),
            "seconds": seconds,
        }
        files.write_json(options.json, report)
        print(f"numbers: {options.json}")
    if options.output is not None:
        sheet = grid(columns, classifier.classes, options.columns)
        with files.atomic_path(options.output) as temporary:
            sheet.save(temporary)
        print(f"grid: {options.output}")
    return 0


def the_classifier(options: Options) -> tuple[PhotoClassifier, dict[str, str]]:
    """The classifier, loaded or trained, and the captions of its classes where there are any."""
    from latentdiff.data.sources.labelled import fingerprint, open_labelled
    from latentdiff.evaluation import classes

    stored = options.classifier is not None and classes.is_saved(options.classifier)
    if options.real is None:
        assert options.classifier is not None
        if not stored:
            raise UserError(f"no classifier in {options.classifier}; give --real to train one")
        return _loaded(options.classifier)
    real = open_labelled(options.real, label_column=options.label_column)
    rows, small = small_pictures(real)
    print(f"{real.name}: {len(rows):,} pictures, {len(real.classes)} classes{_passed_over(real)}")
    digest = fingerprint((real.labels[row], real.read(row)) for row in rows)
    if stored:
        assert options.classifier is not None
        classifier, captions = _loaded(options.classifier)
        if classifier.facts.get("fingerprint") != digest:
            raise UserError(
                f"the classifier in {options.classifier} was trained on other pictures than "
                f"{real.name}; leave out --real, or name another folder"
            )
        return classifier, captions
    classifier = _trained(options, real, rows, small)
    classifier.facts["fingerprint"] = digest
    classifier.facts["captions"] = dict(real.captions)
    if options.classifier is not None:
        classes.save(classifier, options.classifier)
        print(f"classifier: {options.classifier}")
    return classifier, dict(real.captions)


def _loaded(folder: Path) -> tuple[PhotoClassifier, dict[str, str]]:
    from latentdiff.evaluation import classes

    classifier = classes.load(folder)
    print(f"classifier: {folder}, trained on {classifier.facts.get('pictures', 0):,} pictures")
    captions = classifier.facts.get("captions")
    return classifier, dict(captions) if isinstance(captions, dict) else {}


def _trained(
    options: Options, real: Labelled, rows: list[int], small: NDArray[np.uint8]
) -> PhotoClassifier:
    from tqdm import tqdm

    from latentdiff.training.tasks.classifier import ClassifierConfig, train_classifier

    numbers = {name: k for k, name in enumerate(real.classes)}
    labels = np.asarray([numbers[real.labels[row]] for row in rows], np.int64)
    print(f"training the classifier: {options.visits:,} visits ...", flush=True)
    with tqdm(desc="classifier", unit="step", disable=None) as bar:

        def progress(step: int, steps: int, loss: float) -> None:
            bar.total = steps
            bar.update(step - bar.n)
            bar.set_postfix_str(f"loss {loss:.3f}")

        trained = train_classifier(
            small, labels, real.classes, ClassifierConfig(visits=options.visits), progress=progress
        )
    print(f"classifier trained in {trained.facts['seconds']:.0f} s ({trained.facts['dtype']})")
    return trained


def small_pictures(real: Labelled) -> tuple[list[int], NDArray[np.uint8]]:
    """The rows that decode, and their pictures (N, 32, 32, 3); the others are `real.problems`."""
    from latentdiff.evaluation import classes

    rows, small = [], []
    for row, _, picture in real.pictures():
        rows.append(row)
        small.append(classes.to_small(picture))
    if not rows:
        first = real.problems[0]
        raise UserError(f"no picture of {real.name} can be read; {first.where}: {first.reason}")
    return rows, np.stack(small)


def _passed_over(real: Labelled) -> str:
    if not real.problems:
        return ""
    first = real.problems[0]
    return f"; {len(real.problems)} passed over, first {first.where}: {first.reason}"


def on_real(options: Options, classifier: PhotoClassifier) -> ClassScores | None:
    """The classifier's own accuracy, on photographs that it has not seen."""
    if options.real_validation is None:
        return None
    from latentdiff.data.sources.labelled import open_labelled
    from latentdiff.evaluation import classes

    real = open_labelled(options.real_validation, label_column=options.label_column)
    rows, small = small_pictures(real)
    found = classes.score(classifier, list(small), [real.labels[row] for row in rows])
    print(f"{real.name}: {_share(found.overall)} of {len(rows):,} recognised{_passed_over(real)}")
    return found


def measured(
    options: Options, classifier: PhotoClassifier, captions: dict[str, str]
) -> list[Column]:
    """One column for the model or the pictures, and one for what they are compared with."""
    if options.pictures is not None:
        folders = [options.pictures, options.against_pictures]
        return [_read(folder, classifier) for folder in folders if folder is not None]
    chosen = items(options, classifier.classes, captions)
    columns = [_drawn(options, options.model, options.lora, chosen, classifier)]
    if options.against is not None:
        columns.append(_drawn(options, options.against, (), chosen, classifier))
    return columns


def items(options: Options, names: Sequence[str], captions: dict[str, str]) -> list[Item]:
    """What is drawn: picture n of class n modulo the number of classes, each from its own seed."""
    from latentdiff.evaluation.protocol import Item

    def prompt(label: str) -> str:
        words = label.replace("_", " ")
        if options.prompt is not None:
            return options.prompt.replace("{label}", words)
        article = "an" if words[:1].lower() in "aeiou" else "a"
        return captions.get(label) or f"a photo of {article} {words}"

    return [
        Item(
            index=n,
            group="classes",
            subjects=(names[n % len(names)],),
            setting="",
            relation=None,
            prompt=prompt(names[n % len(names)]),
            seed=options.seed + n,
        )
        for n in range(options.count)
    ]


def _drawn(
    options: Options,
    model: str,
    loras: Sequence[str],
    chosen: Sequence[Item],
    classifier: PhotoClassifier,
) -> Column:
    from latentdiff.cli import evaluation_parts as parts
    from latentdiff.evaluation import classes

    loaded = parts.load(model, options.dtype, options.device, tuple(loras))
    drawn = parts.draw(
        loaded.pipeline,
        chosen,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        scheduler=options.scheduler,
        batch_size=options.batch_size,
    )
    pictures = [Image.fromarray(picture) for picture in drawn]
    wanted = tuple(item.subjects[0] for item in chosen)
    return Column(
        name=" + ".join((model, *loras)),
        pictures=pictures,
        wanted=wanted,
        scores=classes.score(classifier, pictures, wanted),
        hashes=loaded.hashes,
    )


def _read(folder: Path, classifier: PhotoClassifier) -> Column:
    from latentdiff.data.sources.labelled import open_labelled
    from latentdiff.evaluation import classes

    found = open_labelled(folder)
    rows, pictures = [], []
    for row, _, picture in found.pictures():
        rows.append(row)
        pictures.append(picture)
    print(f"{found.name}: {len(rows):,} pictures{_passed_over(found)}")
    wanted = tuple(found.labels[row] for row in rows)
    scores = classes.score(classifier, pictures, wanted)
    return Column(name=str(folder), pictures=pictures, wanted=wanted, scores=scores, hashes={})


def _share(value: Any) -> str:
    return f"{100 * value.value:.1f} % ({100 * value.low:.1f} … {100 * value.high:.1f})"


def print_table(columns: Sequence[Column], ceiling: ClassScores | None) -> str:
    """Recognised pictures of each class, with 95 % intervals."""
    from latentdiff.evaluation.result_table import table

    names = columns[0].scores.classes
    shown = [(c.name, c.scores) for c in columns]
    if ceiling is not None:
        shown.append(("real photographs", ceiling))
    rows = [
        [name, *(_share(s.of_class(name)) if s.of_class(name).count else "-" for _, s in shown)]
        for name in names
    ]
    rows.append(["all", *(_share(s.overall) for _, s in shown)])
    return "\n" + table(["recognised", *(title for title, _ in shown)], rows)


def say(comparison: Comparison) -> str:
    """The comparison in a sentence."""
    c = comparison
    verdict = "significant" if c.significant else "not significant"
    return (
        f"difference: {100 * c.difference:+.1f} points ({100 * c.low:+.1f} … {100 * c.high:+.1f}), "
        f"p = {c.p_value:.2g}, {c.method}: {verdict}"
    )


def grid(columns: Sequence[Column], names: Sequence[str], count: int) -> Image.Image:
    """A row for each class: the first model's pictures, then the second's."""
    from latentdiff.evaluation.result_table import Cell, contact_sheet

    each = max(1, count // len(columns))
    blank = np.full((4, 4, 3), 250, np.uint8)
    cells = []
    for name in names:
        for k, column in enumerate(columns):
            rows = [n for n, wanted in enumerate(column.wanted) if wanted == name][:each]
            for n in rows:
                said = column.scores.classes[int(column.scores.said[n])]
                label = name if len(columns) == 1 else f"{'AB'[k]}: {name}"
                label += "" if said == name else f" (seen: {said})"
                picture = column.pictures[n]
                cells.append(Cell(picture=picture, label=label, right=said == name))
            cells += [Cell(picture=blank, label="")] * (each - len(rows))
    return contact_sheet(cells, columns=each * len(columns))
