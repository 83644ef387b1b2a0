"""The classifier of `measure_classes`: loaded from its folder, or trained on photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.sources.labelled import Labelled, fingerprint, open_labelled
from latentdiff.errors import UserError
from latentdiff.evaluation import classes
from latentdiff.evaluation.classes import ClassScores, PhotoClassifier
from latentdiff.training.tasks.classifier import ClassifierConfig, train_classifier

Say = Callable[[str], None]
"""Takes a line of what is being done."""
Progress = Callable[[int, int, float], None]
"""(step, steps, loss)."""


def silent(line: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Labelled pictures: a parquet file (or a folder of them), or a folder with one for each class.

    label_column: of parquet files; by default label, class or category.
    """

    where: Path
    label_column: str | None = None

    def open(self) -> Labelled:
        """The pictures; UserError where there are none."""
        return open_labelled(self.where, label_column=self.label_column)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A classifier, and the most frequent caption of each class in its photographs."""

    classifier: PhotoClassifier
    captions: Mapping[str, str]


def find_classifier(
    photographs: Photographs | None,
    folder: Path | None,
    *,
    visits: int = 160_000,
    say: Say = silent,
    progress: Progress | None = None,
) -> Trained:
    """The classifier kept in `folder`, or one trained on the photographs and kept there.

    visits: pictures seen in training, with repeats. Raises UserError when there is neither, and
    when the one in the folder was trained on other photographs than those named.
    """
    stored = folder is not None and classes.is_saved(folder)
    if photographs is None:
        if not stored or folder is None:
            raise UserError(f"no classifier in {folder}; give --real to train one")
        return load(folder, say)
    real = photographs.open()
    rows, small = small_pictures(real)
    say(f"{real.name}: {len(rows):,} pictures, {len(real.classes)} classes{passed_over(real)}")
    digest = fingerprint((real.labels[row], real.read(row)) for row in rows)
    if stored and folder is not None:
        found = load(folder, say)
        if found.classifier.facts.get("fingerprint") != digest:
            raise UserError(
                f"the classifier in {folder} was trained on other pictures than {real.name}; "
                "leave out --real, or name another folder"
            )
        return found
    numbers = {name: k for k, name in enumerate(real.classes)}
    labels = np.asarray([numbers[real.labels[row]] for row in rows], np.int64)
    say(f"training the classifier: {visits:,} visits ...")
    classifier = train_classifier(
        small, labels, real.classes, ClassifierConfig(visits=visits), progress=progress
    )
    facts = classifier.facts
    say(f"classifier trained in {facts['seconds']:.0f} s ({facts['dtype']})")
    facts |= {"fingerprint": digest, "captions": dict(real.captions)}
    if folder is not None:
        classes.save(classifier, folder)
        say(f"classifier: {folder}")
    return Trained(classifier=classifier, captions=dict(real.captions))


def load(folder: Path, say: Say = silent) -> Trained:
    """The classifier in a folder, with the captions it remembers."""
    classifier = classes.load(folder)
    say(f"classifier: {folder}, trained on {classifier.facts.get('pictures', 0):,} pictures")
    captions = classifier.facts.get("captions")
    return Trained(
        classifier=classifier, captions=dict(captions) if isinstance(captions, dict) else {}
    )


def score_photographs(
    classifier: PhotoClassifier, photographs: Photographs, say: Say = silent
) -> ClassScores:
    """The classifier's own accuracy, on photographs that it has not seen: the ceiling."""
    real = photographs.open()
    rows, small = small_pictures(real)
    found = classes.score(classifier, list(small), [real.labels[row] for row in rows])
    share = classes.share(found.overall)
    say(f"{real.name}: {share} of {len(rows):,} recognised{passed_over(real)}")
    return found


def small_pictures(real: Labelled) -> tuple[list[int], NDArray[np.uint8]]:
    """The rows that decode, and their pictures (N, 32, 32, 3); the others are `real.problems`."""
    rows, small = [], []
    for row, _, picture in real.pictures():
        rows.append(row)
        small.append(classes.to_small(picture))
    if not rows:
        first = real.problems[0]
        raise UserError(f"no picture of {real.name} can be read; {first.where}: {first.reason}")
    return rows, np.stack(small)


def passed_over(real: Labelled) -> str:
    """ "; 2 passed over, first …", or nothing."""
    if not real.problems:
        return ""
    first = real.problems[0]
    return f"; {len(real.problems)} passed over, first {first.where}: {first.reason}"
