"""A shard gives back what was written, every flipped bit and every cut is seen, and keys differ
when anything that a value depends on differs."""

import itertools
import zlib

import numpy as np
import pytest
from safetensors.numpy import load_file, safe_open

from latentdiff.data.cache import shards as cache_shards
from latentdiff.data.cache.keys import first_of_each, picture_key, stack, stamp_key, text_key
from latentdiff.data.cache.shards import DamagedShard, check_whole, open_shard, read_entry

KEYS = [bytes([k]) * 16 for k in (3, 1, 2)]


def arrays():
    draw = np.random.default_rng(0)
    shapes = ((2, 3, 5), (7, 4), (6,))
    return [draw.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.fixture
def shard(tmp_path):
    return cache_shards.write_shard(tmp_path, "moments", KEYS, arrays())[0]


def test_entries_of_any_shape_come_back_bit_for_bit(shard):
    opened = open_shard(shard, "moments")
    assert [k.tobytes() for k in opened.index.keys] == KEYS
    for number, array in enumerate(arrays()):
        found = read_entry(opened, opened.map(), number)
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()


def test_the_file_is_plain_safetensors(shard):
    tensors = load_file(shard)
    assert np.array_equal(tensors["values"], np.concatenate([a.ravel() for a in arrays()]))
    assert tensors["shapes"].tolist() == [[2, 3, 5], [7, 4, 0], [6, 0, 0]]
    assert tensors["starts"].tolist() == [0, 30, 58]
    assert tensors["crc32"].tolist() == [zlib.crc32(a.tobytes()) for a in arrays()]
    with safe_open(shard, framework="numpy") as file:
        assert file.metadata()["kind"] == "moments"


def test_the_name_is_the_sha256_of_the_content(shard):
    check_whole(shard)
    whole = bytearray(shard.read_bytes())
    whole[-1] ^= 1
    shard.write_bytes(whole)
    with pytest.raises(DamagedShard, match="SHA-256 is not its name"):
        check_whole(shard)


def test_every_flipped_bit_is_found_on_opening_or_on_reading(shard):
    good = shard.read_bytes()
    expected = arrays()
    for position, bit in itertools.product(range(len(good)), (0, 7)):
        shard.write_bytes(
            good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :]
        )
        with pytest.raises(DamagedShard):
            opened = open_shard(shard, "moments")
            for number in range(len(expected)):
                read_entry(opened, opened.map(), number)


def test_every_cut_is_found_on_opening(shard):
    good = shard.read_bytes()
    for length in [*range(0, len(good), 7), len(good) - 1]:
        shard.write_bytes(good[:length])
        with pytest.raises(DamagedShard):
            open_shard(shard, "moments")
    shard.write_bytes(good + b"\0")
    with pytest.raises(DamagedShard, match="were written"):
        open_shard(shard, "moments")


def test_a_shard_of_another_kind_is_not_read(shard):
    with pytest.raises(DamagedShard, match="says it holds 'moments', not contexts"):
        open_shard(shard, "contexts")


def test_a_picture_key_changes_with_everything_it_depends_on():
    sha = bytes(range(32))
    keys = {
        picture_key(sha, "center-1", (512, 448), False, "vae"),
        picture_key(sha[::-1], "center-1", (512, 448), False, "vae"),
        picture_key(sha, "center-2", (512, 448), False, "vae"),
        picture_key(sha, "center-1", (448, 512), False, "vae"),
        picture_key(sha, "center-1", (512, 448), True, "vae"),
        picture_key(sha, "center-1", (512, 448), False, "vae2"),
        # The border between two neighbours moves, their joined text stays.
        picture_key(sha, "center-1", (51, 2448), False, "vae"),
        text_key("vae", "clip"),
        text_key("va", "eclip"),
        text_key("", "clip"),
        stamp_key("vae"),
    }
    assert len(keys) == 11
    assert {len(key) for key in keys} == {16}
    assert text_key("a cat \ud800", "clip") != text_key("a cat ", "clip")


def test_the_first_of_equal_keys_is_kept():
    keys = stack([b"b" * 16, b"a" * 16, b"b" * 16, b"a" * 15 + b"b", b"a" * 16])
    assert first_of_each(keys).tolist() == [0, 1, 3]
    assert first_of_each(keys[:0]).tolist() == []
