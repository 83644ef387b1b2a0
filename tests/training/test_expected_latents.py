"""The expected latents of a scene: recovered where they are known, even where that is asked."""

import numpy as np
import pytest

from latentdiff.scenes.catalog import SETTINGS, base_subjects
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.world import World
from latentdiff.training.tasks.expected_latents import ExpectedLatents

SUBJECTS = base_subjects()[:4]
PLACES = ("snow", "beach", "forest")


def drawn(count: int, noise: float) -> tuple[list[SceneRecord], np.ndarray]:
    """Scenes whose latents (2, 3, 3) are a vector of the setting, one of each subject in its place,
    and noise."""
    world = World(0, size=64, subjects=SUBJECTS, settings=PLACES, hold_out_pairs=False)
    rng = np.random.default_rng(0)
    of_setting = {key: rng.normal(size=18) for key in SETTINGS}
    of_subject = {(key, slot): rng.normal(size=18) for key in SUBJECTS for slot in range(3)}
    records = [world.record(k) for k in range(count)]
    latents = []
    for record in records:
        placed = sorted(record.placements, key=lambda p: p.center[0])
        slots = [0] if len(placed) == 1 else [1, 2]
        parts = [of_subject[p.subject, slot] for p, slot in zip(placed, slots, strict=True)]
        latents.append(of_setting[record.setting] + sum(parts) + noise * rng.normal(size=18))
    return records, np.array(latents, np.float32).reshape(-1, 2, 3, 3)


def test_distances_of_codes_are_those_of_the_expected_latents_at_power_0() -> None:
    records, noisy = drawn(4000, 0.5)
    _, clean = drawn(4000, 0.0)
    code = ExpectedLatents(records, noisy, directions=13, power=0.0)(records)
    flat = clean.reshape(len(clean), -1)
    scale = np.sqrt(np.mean((flat - flat.mean(0)) ** 2) * 18 / 13)
    found = np.linalg.norm(code[0] - code[1:300], axis=1) * scale
    wanted = np.linalg.norm(flat[0] - flat[1:300], axis=1)
    assert np.abs(found - wanted).max() < 0.1 * wanted.max()


def test_all_directions_count_the_same_at_power_1_and_codes_have_the_mean_square_asked() -> None:
    records, latents = drawn(2000, 0.1)
    code = ExpectedLatents(records, latents, directions=8, power=1.0, mean_square=0.85)(records)
    assert np.mean(code**2) == pytest.approx(0.85, rel=1e-4)
    assert code.std(axis=0) == pytest.approx(np.full(8, code.std(axis=0)[0]), rel=1e-3)


def test_which_subject_stands_on_the_left_changes_the_code() -> None:
    records, latents = drawn(2000, 0.1)
    expected = ExpectedLatents(records, latents, directions=10, power=0.5)
    world = World(0, size=64, subjects=SUBJECTS, settings=PLACES, hold_out_pairs=False)
    one, two = SUBJECTS[:2]
    left = world.compose((one, two), "snow", 0, "left of").record
    right = world.compose((one, two), "snow", 0, "right of").record
    again = world.compose((two, one), "snow", 1, "right of").record
    code = expected([left, right, again])
    assert np.abs(code[0] - code[1]).max() > 0.1
    assert code[0] == pytest.approx(code[2])


def test_more_directions_than_there_are_is_an_error() -> None:
    records, latents = drawn(200, 0.1)
    with pytest.raises(ValueError, match="expected 1 … 18"):
        ExpectedLatents(records, latents, directions=400, power=0.5)
