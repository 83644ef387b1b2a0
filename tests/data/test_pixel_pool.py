"""The pool holds the world's scenes, whoever renders them, and says what is ready."""

import json
import pickle

import numpy as np
import pytest

from latentdiff.data.rendered import pixel_pool
from latentdiff.data.rendered.pixel_pool import PixelPool, build_pool
from latentdiff.data.rendered.scene_pictures import WorldPictures, open_pictures, row_of
from latentdiff.errors import UserError
from latentdiff.scenes.world import World


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pixel_pool, "CHUNK", 4)


def build(folder, count=6, **keywords):
    return build_pool(folder, world_seed=5, count=count, workers=1, size=32, start=3, **keywords)


def test_rows_are_the_worlds_scenes(tmp_path, small_chunks):
    pool = build(tmp_path)
    world = World(5, size=32)
    for row in range(6):
        scene = world.scene(3 + row)
        assert np.array_equal(pool.picture(row), scene.image)
        assert pool.record(row) == scene.record
    assert pool.complete
    assert np.array_equal(pool.pictures([4, 1])[1], pool.picture(1))


def test_a_cut_off_pool_counts_its_whole_front_and_is_finished_later(tmp_path, small_chunks):
    pool = build(tmp_path, count=12)
    whole = pool.fingerprint
    digests = np.load(tmp_path / "digests.npy", mmap_mode="r+")
    digests[1] = 0
    pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r+")
    pixels[4:8] = 0
    again = PixelPool(tmp_path)
    assert again.ready == 4
    with pytest.raises(UserError, match="still being rendered"):
        _ = again.fingerprint
    assert build(tmp_path, count=12).fingerprint == whole


def test_the_fingerprint_follows_the_content(tmp_path):
    one = build(tmp_path / "a").fingerprint
    assert build(tmp_path / "b").fingerprint == one
    other = build_pool(tmp_path / "c", world_seed=6, count=6, workers=1, size=32, start=3)
    assert other.fingerprint != one


def test_two_processes_render_the_same_pool(tmp_path, small_chunks):
    alone = build(tmp_path / "a")
    many = build_pool(tmp_path / "b", world_seed=5, count=6, workers=2, size=32, start=3)
    assert np.array_equal(alone.pictures(range(6)), many.pictures(range(6)))


def test_another_pool_in_the_folder_is_refused(tmp_path):
    build(tmp_path)
    with pytest.raises(UserError, match="another pool"):
        build(tmp_path, count=7)


def test_no_pool_and_a_broken_one_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no pool of scenes"):
        PixelPool(tmp_path)
    build(tmp_path)
    (tmp_path / "pool.json").write_text(json.dumps({"world_seed": 1}))
    with pytest.raises(UserError, match="cannot be read"):
        PixelPool(tmp_path)


def test_waiting_for_rows_that_never_come_ends(tmp_path, small_chunks):
    pool = build(tmp_path)
    digests = np.load(tmp_path / "digests.npy", mmap_mode="r+")
    digests[1] = 0
    pool.wait(4)
    with pytest.raises(UserError, match="does not grow"):
        pool.wait(6, minutes=0)


def test_a_pool_travels_to_other_processes_as_its_folder(tmp_path):
    pool = build(tmp_path)
    sent = pickle.dumps(pool)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).picture(2), pool.picture(2))


def test_every_row_comes_once_an_epoch_in_a_new_order():
    first, second = ([row_of(p, 10, 1) for p in range(e * 10, e * 10 + 10)] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [row_of(p, None, 1) for p in (0, 7, 70)] == [0, 7, 70]


def test_pictures_of_the_wrong_size_are_refused(tmp_path):
    build(tmp_path)
    with pytest.raises(UserError, match="32 px"):
        open_pictures(pool=tmp_path, rows=0, world_seed=0, size=128)
    endless = open_pictures(pool=None, rows=0, world_seed=5, size=32)
    assert isinstance(endless, WorldPictures)
    assert np.array_equal(endless.picture(3), PixelPool(tmp_path).picture(0))
