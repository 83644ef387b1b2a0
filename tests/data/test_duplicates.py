"""Copies of a picture are found, different pictures are not confused, and not by comparing all."""

import numpy as np
import pytest
from few_pictures import cropped, reencoded, scene
from PIL import Image

from latentdiff.data.check import duplicates, fingerprint

COUNT = 60
COPIES = {
    "JPEG quality 60": reencoded,
    "JPEG quality 30": lambda image: reencoded(image, 30),
    "a pixel off the left": lambda image: cropped(image, left=1),
    "a pixel off all sides": lambda image: cropped(image, 1, 1, 1, 1),
    "a crop, then JPEG": lambda image: reencoded(cropped(image, top=1, right=1)),
    "half the size": lambda image: image.resize((32, 32), Image.Resampling.LANCZOS),
    "twice the size": lambda image: image.resize((128, 128), Image.Resampling.BICUBIC),
    "a little brighter": lambda image: image.point(lambda v: min(255, round(v * 1.05) + 3)),
    "stretched": lambda image: image.resize((96, 64), Image.Resampling.LANCZOS),
}


def described(images):
    return np.stack([fingerprint.describe(image) for image in images])


@pytest.fixture(scope="module")
def scenes():
    return described([scene(k) for k in range(COUNT)])


@pytest.mark.parametrize("kind", COPIES)
def test_every_copy_is_found_and_no_other_pair(kind, scenes):
    copies = described([COPIES[kind](scene(k)) for k in range(COUNT)])
    found = duplicates.near_pairs(np.concatenate([scenes, copies]))
    assert [tuple(pair) for pair in found.tolist()] == [(k, COUNT + k) for k in range(COUNT)]


def test_another_object_in_the_same_place_is_another_picture():
    image = scene(3)
    other = image.copy()
    other.paste((200, 30, 30), (24, 24, 40, 40))
    found = duplicates.near_pairs(described([image, other, scene(4)]))
    assert found.tolist() == []


def test_a_mirrored_picture_is_another_picture():
    image = scene(5)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert duplicates.near_pairs(described([image, mirrored])).tolist() == []


def test_likeness_goes_both_ways(scenes):
    draw = np.random.default_rng(0)
    noisy = np.clip(scenes + draw.normal(0, 6, scenes.shape), 0, 255).astype(np.uint8)
    forth, back = fingerprint.alike(scenes, noisy), fingerprint.alike(noisy, scenes)
    assert forth.any()
    assert np.array_equal(forth, back)


def test_blank_pictures_are_alike_when_their_colours_are():
    colours = [(250, 250, 250), (247, 248, 250), (20, 20, 20), (250, 20, 20)]
    images = [Image.new("RGB", (50, 40), colour) for colour in colours]
    assert duplicates.near_pairs(described(images)).tolist() == [[0, 1]]


def test_a_picture_of_one_pixel_and_a_line_have_descriptors():
    for size in ((1, 1), (1, 5000), (5000, 1)):
        assert fingerprint.describe(Image.new("RGB", size)).shape == (fingerprint.CELLS,)


def test_the_number_of_comparisons_grows_with_the_number_of_pictures_not_its_square(monkeypatch):
    looked = []
    real = fingerprint.alike
    monkeypatch.setattr(fingerprint, "alike", lambda a, b: looked.append(len(a)) or real(a, b))
    draw = np.random.default_rng(1)
    one = fingerprint.describe(scene(0)).astype(np.int16)
    count = 3000  # all of them copies of one picture: the worst case
    noise = draw.integers(-2, 3, (count, fingerprint.CELLS))
    many = np.clip(one + noise, 0, 255).astype(np.uint8)
    pairs = duplicates.near_pairs(many)
    assert sum(looked) <= count * (duplicates.NEIGHBOURS + 1)
    groups = duplicates.groups(count, pairs)
    assert [len(group) for group in groups] == [count]  # and still they are one group


def test_groups_are_what_pairs_connect():
    pairs = np.array([[4, 5], [0, 7], [5, 9], [7, 8], [1, 2]])
    found = [group.tolist() for group in duplicates.groups(11, pairs)]
    assert found == [[0, 7, 8], [1, 2], [4, 5, 9]]
    chain = np.stack([np.arange(999), np.arange(1, 1000)], axis=1)[::-1]
    assert [len(group) for group in duplicates.groups(1000, chain)] == [1000]
    assert duplicates.groups(3, np.empty((0, 2), np.int64)) == []


def test_equal_hashes_are_grouped():
    hashes = np.array([b"b", b"a", b"b", b"c", b"a", b"b"], "V16")
    assert [g.tolist() for g in duplicates.equal_groups(hashes)] == [[0, 2, 5], [1, 4]]


def test_none_and_one_picture_have_no_pairs(scenes):
    assert duplicates.near_pairs(scenes[:0]).shape == (0, 2)
    assert duplicates.near_pairs(scenes[:1]).shape == (0, 2)
    assert fingerprint.alike(scenes[:0], scenes[:0]).shape == (0,)
