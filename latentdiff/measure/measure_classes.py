"""Are the pictures of a class recognised as that class? One or two models, one classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentdiff import __version__
from latentdiff.evaluation import classes
from latentdiff.evaluation.classes import ClassScores, Comparison, PhotoClassifier
from latentdiff.evaluation.protocol import Item
from latentdiff.evaluation.result_table import table
from latentdiff.measure.drawing import Drawing
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.photo_classifier import Photographs, Say, passed_over, silent
from latentdiff.sheet import Cell, labelled_sheet


@dataclass(frozen=True, kw_only=True)
class JudgedPictures:
    """One model's or one folder's pictures, in the order of `wanted`, and how they scored."""

    name: str
    pictures: Sequence[Image.Image]
    wanted: Sequence[str]
    scores: ClassScores
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClassesReport:
    """One or two sets of pictures; ceiling: the classifier on photographs it has not seen.

    paired: whether picture n of both had the same prompt and seed.
    """

    classifier: PhotoClassifier
    judged: Sequence[JudgedPictures]
    ceiling: ClassScores | None = None
    paired: bool = True

    @property
    def comparison(self) -> Comparison | None:
        """First minus second; None where there is one alone."""
        if len(self.judged) < 2:
            return None
        first, second = self.judged
        return classes.compare(first.scores, second.scores, paired=self.paired)

    def table(self) -> str:
        """Recognised pictures of each class, with 95 % intervals."""
        names = self.judged[0].scores.classes
        shown = [(one.name, one.scores) for one in self.judged]
        if self.ceiling is not None:
            shown.append(("real photographs", self.ceiling))
        rows = []
        for name in names:
            found = [scores.of_class(name) for _, scores in shown]
            rows.append([name, *(classes.share(p) if p.count else "-" for p in found)])
        rows.append(["all", *(classes.share(scores.overall) for _, scores in shown)])
        return table(["recognised", *(title for title, _ in shown)], rows)

    def sentence(self) -> str | None:
        """The comparison in a sentence."""
        c = self.comparison
        if c is None:
            return None
        verdict = "significant" if c.significant else "not significant"
        return (
            f"difference: {100 * c.difference:+.1f} points "
            f"({100 * c.low:+.1f} … {100 * c.high:+.1f}), "
            f"p = {c.p_value:.2g}, {c.method}: {verdict}"
        )

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        comparison = self.comparison
        return {
            "measurement": "classes",
            "version": __version__,
            "classifier": {
                "classes": list(self.classifier.classes),
                "facts": self.classifier.facts,
            },
            "real": None if self.ceiling is None else self.ceiling.to_json(),
            "models": [
                {"name": one.name, "hashes": dict(one.hashes), **one.scores.to_json()}
                for one in self.judged
            ],
            "comparison": None if comparison is None else comparison.to_json(),
        }

    def sheet(self, columns: int = 8) -> Image.Image:
        """A row for each class: the first model's pictures, then the second's."""
        each = max(1, columns // len(self.judged))
        blank = np.full((4, 4, 3), 250, np.uint8)
        cells = []
        for name in self.classifier.classes:
            for k, one in enumerate(self.judged):
                rows = [n for n, wanted in enumerate(one.wanted) if wanted == name][:each]
                for n in rows:
                    said = one.scores.classes[int(one.scores.said[n])]
                    label = name if len(self.judged) == 1 else f"{'AB'[k]}: {name}"
                    label += "" if said == name else f" (seen: {said})"
                    cells.append(Cell(picture=one.pictures[n], label=label, right=said == name))
                cells += [Cell(picture=blank, label="")] * (each - len(rows))
        return labelled_sheet(cells, columns=each * len(self.judged))


def class_items(
    names: Sequence[str],
    count: int = 200,
    *,
    prompt: str | None = None,
    captions: Mapping[str, str] | None = None,
    seed: int = 1_000_000,
) -> list[Item]:
    """What is drawn: picture n is of class n modulo the number of classes, from seed + n.

    prompt: of every class, with {label} in it; by default the class's caption, or "a photo of …".
    """

    def prompt_of(label: str) -> str:
        words = label.replace("_", " ")
        if prompt is not None:
            return prompt.replace("{label}", words)
        article = "an" if words[:1].lower() in "aeiou" else "a"
        return (captions or {}).get(label) or f"a photo of {article} {words}"

    return [
        Item(
            index=n,
            group="classes",
            subjects=(names[n % len(names)],),
            setting="",
            relation=None,
            prompt=prompt_of(names[n % len(names)]),
            seed=seed + n,
        )
        for n in range(count)
    ]


def judge_model(
    model: MeasuredModel,
    items: Sequence[Item],
    classifier: PhotoClassifier,
    drawing: Drawing | None = None,
) -> JudgedPictures:
    """Draw the items with a model and ask the classifier what they show."""
    drawn = (drawing or Drawing()).items(model.pipeline, items)
    pictures = [Image.fromarray(picture) for picture in drawn]
    wanted = tuple(item.subjects[0] for item in items)
    return JudgedPictures(
        name=model.name,
        pictures=pictures,
        wanted=wanted,
        scores=classes.score(classifier, pictures, wanted),
        hashes=model.hashes,
    )


def judge_folder(folder: Path, classifier: PhotoClassifier, say: Say = silent) -> JudgedPictures:
    """Ask the classifier what the pictures of a folder show, one folder in it for each class."""
    found = Photographs(where=folder).open()
    rows, pictures = [], []
    for row, _, picture in found.pictures():
        rows.append(row)
        pictures.append(picture)
    say(f"{found.name}: {len(rows):,} pictures{passed_over(found)}")
    wanted = tuple(found.labels[row] for row in rows)
    return JudgedPictures(
        name=str(folder),
        pictures=pictures,
        wanted=wanted,
        scores=classes.score(classifier, pictures, wanted),
    )
