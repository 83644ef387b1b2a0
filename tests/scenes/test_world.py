"""Scenes are pure functions of (seed, index), and their records are the truth."""

import numpy as np
import pytest

from latentdiff.errors import UserError
from latentdiff.scenes import sprites, world
from latentdiff.scenes.catalog import RELATIONS, SETTINGS, SUBJECTS, base_subjects
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.source import WorldSpec, endless, render_range
from latentdiff.scenes.world import World, is_held_out_pair

WORLD = World(11)
RECORDS = [WORLD.record(k) for k in range(4000)]


def side_of(placement):
    x0, y0, x1, y1 = placement.box
    return max(x1 - x0, y1 - y0)


def test_a_scene_does_not_depend_on_what_was_drawn_before_it():
    forward = {k: World(3).scene(k) for k in (0, 5, 17)}
    other = World(3)
    for k in (17, 0, 5):
        scene = other.scene(k)
        assert np.array_equal(scene.image, forward[k].image)
        assert scene.record == forward[k].record


def test_worker_processes_render_the_same_scenes_in_order():
    spec = {"size": 48, "subjects": ("cat", "owl", "dragon"), "hold_out_pairs": False}
    here = list(render_range(World(4, **spec), 3, 75, workers=0))
    there = list(render_range(World(4, **spec), 3, 75, workers=2))
    assert [k for k, _, _ in there] == list(range(3, 75))
    for (_, image, record), (_, other_image, other_record) in zip(here, there, strict=True):
        assert np.array_equal(image, other_image)
        assert record == other_record


def test_the_endless_source_starts_anywhere():
    world = World(4)
    stream = endless(world, start=100)
    for k in (100, 101):
        index, image, record = next(stream)
        assert index == k and record == world.record(k)
        assert np.array_equal(image, world.scene(k).image)


def test_seeds_and_indices_change_the_scene():
    images = [World(s).scene(k).image for s in (0, 1) for k in (0, 1)]
    for i, image in enumerate(images):
        for other in images[:i]:
            assert not np.array_equal(image, other)


def test_the_cheap_record_is_the_rendered_scene_s():
    world = World(8)
    for k in range(20):
        assert world.record(k) == world.scene(k).record


def test_records_survive_json():
    for record in RECORDS[:50]:
        assert SceneRecord.from_json(record.to_json()) == record


def test_pictures_are_uint8_and_scale_with_size():
    small, large = World(2, size=64).scene(1), World(2, size=256).scene(1)
    assert small.image.shape == (64, 64, 3) and large.image.dtype == np.uint8
    assert small.record.subjects == large.record.subjects
    for a, b in zip(small.record.placements, large.record.placements, strict=True):
        assert np.abs(4 * np.array(a.box) - np.array(b.box)).max() <= 4
    shrunk = large.image.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small.image).mean() < 6


def test_boxes_are_what_is_visible_of_a_subject_within_two_pixels():
    six = World(6)
    for k in range(60):
        record, poses = six._plan(k)
        for pose, placement in zip(poses, record.placements, strict=True):
            pixels, left, top = sprites.draw_turned(
                pose.subject, pose.side, pose.angle, pose.mirrored, pose.middle, 128
            )
            rows, columns = np.nonzero(pixels[..., 3] > 0.3)
            seen = (
                left + columns.min(),
                top + rows.min(),
                left + columns.max() + 1,
                top + rows.max() + 1,
            )
            assert np.abs(np.array(seen) - np.array(placement.box)).max() <= 2, placement


def test_sizes_lie_in_their_range_and_nothing_leaves_the_picture():
    for record in RECORDS:
        for placement in record.placements:
            x0, y0, x1, y1 = placement.box
            assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 128
            low, high = (66, 102) if record.relation is None else (44, 64)
            assert low <= side_of(placement) <= high, placement


def test_two_subjects_hardly_overlap_and_stand_as_their_relation_says():
    pairs = [r for r in RECORDS if r.relation is not None]
    assert 0.22 < len(pairs) / len(RECORDS) < 0.28
    assert {r.relation for r in pairs} == set(RELATIONS)
    for record in pairs:
        a, b = record.placements
        assert a.subject != b.subject
        if record.relation == "left of":
            assert a.center[0] + 30 < b.center[0]
        elif record.relation == "right of":
            assert a.center[0] > b.center[0] + 30
        overlap = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
        assert overlap <= 12
    symmetric = [r for r in pairs if r.relation == "and"]
    first_left = [r.placements[0].center[0] < r.placements[1].center[0] for r in symmetric]
    assert 0.35 < np.mean(first_left) < 0.65


def test_about_a_tenth_of_pairs_is_held_out_and_never_drawn():
    pairs = [(s, p) for s in SUBJECTS for p in SETTINGS]
    share = np.mean([is_held_out_pair(*pair) for pair in pairs])
    assert 0.08 < share < 0.12
    for record in RECORDS:
        assert not any(is_held_out_pair(s, record.setting) for s in record.subjects)
    free = World(11, hold_out_pairs=False)
    drawn = [free.record(k) for k in range(600)]
    assert any(is_held_out_pair(r.subjects[0], r.setting) for r in drawn)


def test_the_documented_prompts_are_never_held_out():
    assert ("cat", "snow") in world._NEVER_HELD_OUT
    for subject, setting in world._NEVER_HELD_OUT:
        assert subject in SUBJECTS and setting in SETTINGS
        assert not is_held_out_pair(subject, setting)


def test_all_subjects_and_settings_come_about_equally_often():
    subjects = [r.subjects[0] for r in RECORDS]
    assert set(subjects) == set(base_subjects())
    counts = np.array([subjects.count(s) for s in base_subjects()])
    assert counts.min() > 8 and counts.max() < 70
    settings = [r.setting for r in RECORDS]
    assert set(settings) == set(SETTINGS)
    plain = np.mean([SETTINGS[s].plain for s in settings])
    assert 0.17 < plain < 0.23


def test_a_calm_subject_is_never_mirrored_and_a_lively_one_is_half_of_the_time():
    assert not any(p.mirrored for r in RECORDS for p in r.placements)
    lively = [World(seed=11, lively=True).record(k) for k in range(1000)]
    mirrored = np.mean([p.mirrored for r in lively for p in r.placements])
    assert 0.45 < mirrored < 0.55


def test_a_calm_subject_keeps_its_size_and_its_place():
    for record in RECORDS[:1000]:
        for placement in record.placements:
            x0, _, x1, _ = placement.box
            middle = 64 if len(record.placements) == 1 else (34 if x0 + x1 < 128 else 94)
            assert abs((x0 + x1) / 2 - middle) <= 4.5


def test_held_out_subjects_appear_only_when_asked_for():
    for record in RECORDS:
        assert not any(SUBJECTS[s].held_out for s in record.subjects)
    dragons = World(0, subjects=["dragon"])
    assert {dragons.record(k).subjects for k in range(30)} == {("dragon",)}


def test_settings_can_be_chosen():
    snowy = World(0, settings=["snow"])
    assert {snowy.record(k).setting for k in range(40)} == {"snow"}
    assert not any(is_held_out_pair(s, "snow") for s in snowy.subjects)
    with pytest.raises(UserError, match="every pair of 'cow'"):
        World(0, subjects=["cow"], settings=["snow"])


def test_compose_draws_what_it_is_told_and_repeats_it():
    scene = World(1).compose(["owl", "snowman"], "snow", 2, "left of")
    assert scene.record.subjects == ("owl", "snowman") and scene.record.relation == "left of"
    assert np.array_equal(
        scene.image, World(1).compose(["owl", "snowman"], "snow", 2, "left of").image
    )
    assert not np.array_equal(
        scene.image, World(1).compose(["owl", "snowman"], "snow", 3, "left of").image
    )
    assert World(1).compose(["red car"], "at sunset", 0).record.setting == "sunset"


def test_every_setting_shows_its_subject_clearly():
    """The subject changes its part of the picture: with another subject the box looks different."""
    for setting in SETTINGS:
        cat = World(1).compose(["cat"], setting, 0)
        robot = World(1).compose(["robot"], setting, 0)
        x0, y0, x1, y1 = cat.record.placements[0].box
        difference = np.abs(cat.image.astype(float) - robot.image)[y0:y1, x0:x1]
        assert difference.mean() > 20, setting


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: World(0, subjects=["cat", "dogg"]), "unknown subject 'dogg'"),
        (lambda: World(0, settings=["snoww"]), "unknown setting 'snoww'"),
        (lambda: World(0, size=8), "expected 32 to 1024"),
        (lambda: World(0, subjects=[]), "at least one subject"),
        (lambda: World(0).compose(["cat", "cat"], "snow", 0), "two different"),
        (lambda: World(0).compose(["cat"], "snow", 0, "left of"), "needs two subjects"),
        (lambda: World(0).compose(["cat", "dog"], "snow", 0, "above"), "unknown relation"),
        (lambda: list(render_range(World(0), 5, 2)), "0 <= start <= stop"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(("asked", "found"), [(None, 0.25), (0.0, 0.0), (0.6, 0.6), (1.0, 1.0)])
def test_the_share_of_pairs_is_the_one_asked_for(asked, found):
    world = World(seed=5, pair_rate=asked)
    share = np.mean([len(world.record(k).subjects) == 2 for k in range(1000)])
    assert abs(share - found) < 0.05
    assert WorldSpec.of(world).build().record(3) == world.record(3)


def test_a_share_of_pairs_beyond_one_is_refused():
    with pytest.raises(UserError, match=r"share of pairs of 1\.5"):
        World(seed=5, pair_rate=1.5)


@pytest.mark.parametrize("lively", [False, True])
def test_of_two_composed_ones_the_first_stands_on_the_left_where_no_side_is_said(lively):
    for k, relation in enumerate(["and", "next to", None] * 4):
        record = World(5, lively=lively).compose(["owl", "snowman"], "snow", k, relation).record
        owl, snowman = record.placements
        assert owl.center[0] < snowman.center[0]
        assert record.named == ("owl", "snowman")
