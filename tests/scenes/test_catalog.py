"""What the world holds."""

from pathlib import Path

import numpy as np
import pytest

import latentdiff.scenes
from latentdiff.errors import UserError
from latentdiff.scenes import catalog, sprites
from latentdiff.scenes.places import PLACES

ASSETS = Path(latentdiff.scenes.__file__).parent / "assets"


def test_the_world_holds_enough_subjects_and_settings():
    assert 96 <= len(catalog.base_subjects()) <= 160
    assert len(catalog.held_out_subjects()) >= 20
    assert len(catalog.illustrated_settings()) >= 12
    assert len(catalog.plain_settings()) >= 8
    assert not set(catalog.base_subjects()) & set(catalog.held_out_subjects())


def test_the_core_subjects_are_48_of_the_base_ones():
    assert len(catalog.core_subjects()) == 48
    assert set(catalog.core_subjects()) < set(catalog.base_subjects())


def test_every_subject_has_its_picture_and_every_picture_its_subject():
    codes = [subject.code for subject in catalog.SUBJECTS.values()]
    assert len(set(codes)) == len(codes)
    assert {f"{code}.webp" for code in codes} == {p.name for p in ASSETS.glob("*.webp")}
    assert "Copyright (c) Microsoft Corporation" in (ASSETS / "LICENSE").read_text()


def test_every_setting_can_be_painted():
    assert set(PLACES) == set(catalog.SETTINGS)


def test_no_noun_names_a_base_and_a_held_out_subject():
    base = {n for k in catalog.base_subjects() for n in catalog.SUBJECTS[k].nouns}
    held = {n for k in catalog.held_out_subjects() for n in catalog.SUBJECTS[k].nouns}
    assert not base & held


def test_subjects_differ_from_one_another_at_small_size():
    """No two pictures are near-copies: 16 × 16 on mid-grey, root mean square above 0.06."""
    thumbs = []
    for key in catalog.SUBJECTS:
        pixels, _, _ = sprites.draw_turned(key, 16, 0.0, False, (8.0, 8.0), 16)
        thumb = np.full((16, 16, 3), 0.5, np.float32)
        top, left = (16 - pixels.shape[0]) // 2, (16 - pixels.shape[1]) // 2
        part = thumb[top : top + pixels.shape[0], left : left + pixels.shape[1]]
        part *= 1 - pixels[..., 3:]
        part += pixels[..., :3]
        thumbs.append(thumb.ravel())
    stack = np.stack(thumbs)
    distance = np.sqrt(((stack[:, None] - stack[None]) ** 2).mean(axis=2))
    np.fill_diagonal(distance, 1.0)
    assert distance.min() > 0.06


@pytest.mark.parametrize(("name", "key"), [("Red Car", "red-car"), ("bunny", "rabbit")])
def test_subjects_are_found_by_name_and_synonym(name, key):
    assert catalog.find_subject(name).key == key


def test_subjects_are_found_by_the_group_too_each_once():
    assert catalog.find_subjects(["core"]) == catalog.core_subjects()
    assert catalog.find_subjects(["Held-Out", "dragon"]) == catalog.held_out_subjects()
    assert catalog.find_subjects(["bunny", "rabbit", "cat"]) == ("rabbit", "cat")
    assert catalog.find_subjects([]) is None


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"did you mean .*'penguin'"):
        catalog.find_subject("pengin")
    with pytest.raises(UserError, match="unknown setting 'moon base'"):
        catalog.find_setting("moon base")
