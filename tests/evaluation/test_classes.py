"""The photo classifier: what it learns, what it says, and how two models are compared."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from latentdiff import seeding
from latentdiff.errors import UserError
from latentdiff.evaluation import classes
from latentdiff.evaluation.classes import ClassScores, PhotoClassifier
from latentdiff.evaluation.intervals import wilson
from latentdiff.evaluation.paired import newcombe
from latentdiff.training.tasks.classifier import ClassifierConfig, augmented, train_classifier

NAMES = ("blob", "checks", "stripes")
SMALL = ClassifierConfig(visits=1600, batch_size=32, widths=(8, 8, 8), learning_rate=0.1)


def shapes(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noisy 32 px pictures of a blob, a chequerboard or stripes, in any colour and place."""
    y, x = np.mgrid[:32, :32]
    pictures, labels = np.empty((count, 32, 32, 3), np.uint8), np.arange(count) % 3
    for n in range(count):
        draw = seeding.generator(seed, "shape", n)
        dx, dy = draw.integers(8, 24, 2)
        shape = [
            (x - dx) ** 2 + (y - dy) ** 2 < 64,
            ((x + dx) // 4 + (y + dy) // 4) % 2 == 0,
            (x + dx) // 4 % 2 == 0,
        ][n % 3]
        colours = draw.integers(0, 256, (2, 3))
        picture = np.where(shape[..., None], colours[0], colours[1]) + draw.normal(
            0, 9, (32, 32, 3)
        )
        pictures[n] = picture.clip(0, 255)
    return pictures, labels


@pytest.fixture(scope="module")
def trained() -> PhotoClassifier:
    return train_classifier(*shapes(300, 0), NAMES, SMALL)


def test_it_recognises_pictures_that_it_has_not_seen(trained: PhotoClassifier) -> None:
    pictures, labels = shapes(120, 1)
    found = classes.score(trained, list(pictures), [NAMES[k] for k in labels])
    assert found.overall.value > 0.9
    assert found.probability.mean() > 0.6


def test_larger_pictures_are_judged_as_their_small_selves(trained: PhotoClassifier) -> None:
    pictures, labels = shapes(60, 2)
    wanted = [NAMES[k] for k in labels]
    large = [Image.fromarray(p).resize((128, 128), Image.Resampling.BICUBIC) for p in pictures]
    small, scaled = (classes.score(trained, x, wanted) for x in (list(pictures), large))
    assert (small.said == scaled.said).mean() > 0.95
    # A wide picture is judged by its central square.
    wide = Image.new("RGB", (300, 100))
    wide.paste(large[0].resize((100, 100)), (100, 0))
    assert np.array_equal(classes.to_small(wide), classes.to_small(large[0].resize((100, 100))))
    assert np.array_equal(classes.to_small(pictures[0]), pictures[0])


def test_a_verdict_depends_neither_on_the_batch_nor_on_mirroring(trained: PhotoClassifier) -> None:
    pictures, _ = shapes(10, 3)
    whole = classes.probabilities(trained, pictures)
    assert np.allclose(whole, classes.probabilities(trained, pictures, batch_size=3), atol=1e-6)
    mirrored = np.ascontiguousarray(pictures[:, :, ::-1])
    assert np.allclose(whole, classes.probabilities(trained, mirrored), atol=1e-6)
    assert np.allclose(whole.sum(axis=1), 1, atol=1e-5)


def test_the_same_pictures_give_the_same_classifier() -> None:
    config = ClassifierConfig(visits=96, batch_size=32, widths=(8, 8, 8))
    torch.manual_seed(1)
    first = train_classifier(*shapes(30, 0), NAMES, config).state_dict()
    torch.manual_seed(2)
    second = train_classifier(*shapes(30, 0), NAMES, config).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stored_classifier_says_the_same(trained: PhotoClassifier, tmp_path: Path) -> None:
    pictures, _ = shapes(12, 4)
    classes.save(trained, tmp_path)
    assert classes.is_saved(tmp_path)
    again = classes.load(tmp_path)
    assert (again.classes, again.facts) == (trained.classes, trained.facts)
    before, after = (classes.probabilities(c, pictures) for c in (trained, again))
    assert np.array_equal(before, after)


def test_damaged_files_are_refused_by_name(trained: PhotoClassifier, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        classes.load(tmp_path)
    classes.save(trained, tmp_path)
    config = json.loads((tmp_path / classes.CONFIG).read_text())
    (tmp_path / classes.CONFIG).write_text(json.dumps({**config, "widths": [8, 8, 16]}))
    with pytest.raises(UserError, match=r"does not fit its config\.json"):
        classes.load(tmp_path)
    (tmp_path / classes.CONFIG).write_text(json.dumps({**config, "format": "other"}))
    with pytest.raises(UserError, match="does not describe a classifier"):
        classes.load(tmp_path)
    (tmp_path / classes.CONFIG).write_text(json.dumps(config))
    weights = tmp_path / classes.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(UserError, match="cannot be read"):
        classes.load(tmp_path)


def test_an_unknown_class_is_named(trained: PhotoClassifier) -> None:
    with pytest.raises(UserError, match=r"does not know the class 'dog'; it knows blob, checks"):
        classes.score(trained, [], ["dog"])


def test_a_class_without_pictures_is_refused() -> None:
    pictures, labels = shapes(30, 0)
    with pytest.raises(UserError, match="30 pictures of 3 classes"):
        train_classifier(pictures, labels, (*NAMES, "dog"), SMALL)


def test_augmentation_flips_and_shifts_and_nothing_else() -> None:
    pictures, _ = shapes(64, 5)
    seen = augmented(torch.from_numpy(pictures), 3, 0, 0)
    assert seen.shape == (64, 3, 32, 32)
    found = ((seen + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    padded = np.pad(pictures, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
    flips = set()
    for n in range(64):
        matches = [
            (dx, dy, flip)
            for dx in range(7)
            for dy in range(7)
            for flip in (False, True)
            if np.array_equal(
                found[n], padded[n, dy : dy + 32, dx : dx + 32][:, :: -1 if flip else 1]
            )
        ]
        assert matches
        flips.add(matches[0])
    assert len({f[:2] for f in flips}) > 20 and len({f[2] for f in flips}) == 2


def scores(right: int, count: int, offset: int = 0) -> ClassScores:
    said = np.ones(count, np.int64)
    said[(np.arange(right) + offset) % count] = 0
    return ClassScores(
        classes=("a", "b"),
        wanted=np.zeros(count, np.int64),
        said=said,
        probability=np.zeros(count, np.float32),
    )


def test_scores_count_what_is_recognised() -> None:
    found = ClassScores(
        classes=("a", "b"),
        wanted=np.array([0, 0, 0, 1]),
        said=np.array([0, 1, 0, 1]),
        probability=np.full(4, 0.5, np.float32),
    )
    assert found.overall == wilson(3, 4) and found.of_class("a") == wilson(2, 3)
    assert found.confusion() == [[2, 1], [0, 1]]
    assert found.to_json()["by_class"]["b"]["successes"] == 1


def test_pairing_sees_what_two_samples_do_not() -> None:
    # 12 pictures more, all others the same.
    first, second = scores(62, 100), scores(50, 100)
    paired = classes.compare(first, second, paired=True)
    assert paired.difference == pytest.approx(0.12) and paired.significant
    assert paired.p_value == pytest.approx(2 / 2**12)
    assert 0 < paired.low < 0.12 < paired.high
    apart = classes.compare(first, second, paired=False)
    assert apart.difference == pytest.approx(0.12) and not apart.significant
    assert apart.low < 0 < apart.high
    # The other way round the signs turn.
    assert classes.compare(second, first, paired=True).difference == pytest.approx(-0.12)


def test_newcombes_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17:873, table II, example (a), method 10.
    difference, low, high, p_value = newcombe(wilson(56, 70), wilson(48, 80))
    assert (difference, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert p_value == pytest.approx(0.0082, abs=5e-4)
    assert newcombe(wilson(0, 0), wilson(3, 4))[3] == 1.0
