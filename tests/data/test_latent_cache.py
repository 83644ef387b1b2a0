"""A latent cache finds what is there, makes only what is missing, and outlives its builders."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from latentdiff import files
from latentdiff.data.cache import build as cache_build
from latentdiff.data.cache.build import Team, build
from latentdiff.data.cache.keys import stack
from latentdiff.data.cache.latent_cache import CONTEXTS, MOMENTS, LatentCache
from latentdiff.data.cache.shards import DamagedShard, write_shard
from latentdiff.data.records import BadPicture
from latentdiff.errors import UserError


def keys_of(numbers):
    """Distinct keys that are dealt to processes in turn."""
    return stack(b"key %4d" % n + n.to_bytes(8, "little") for n in numbers)


def value(n):
    """What entry n holds: (2, n % 3 + 1, 4) float32."""
    return np.full((2, n % 3 + 1, 4), n, np.float32)


def made(cache, numbers, **options):
    """Build entries; returns the numbers that were encoded, in order, and the bad ones."""
    encoded = []

    def encode(loaded):
        encoded.extend(loaded)
        return [value(n) for n in loaded]

    numbers = list(numbers)
    options = {"batch_size": 4, **options}
    bad = build(cache.store(MOMENTS), keys_of(numbers), numbers.__getitem__, encode, **options)
    return encoded, bad


def held(cache, numbers):
    store = cache.store(MOMENTS)
    entries = store.find(keys_of(numbers))
    assert (entries >= 0).all(), entries
    return [store.read(int(entry)) for entry in entries]


def assert_holds(cache, numbers):
    for n, found in zip(numbers, held(cache, numbers), strict=True):
        assert np.array_equal(found, value(n))


def test_only_what_is_missing_is_made(tmp_path):
    cache = LatentCache(tmp_path / "cache", create=True)
    assert made(cache, range(10))[0] == list(range(10))
    assert made(cache, range(10))[0] == []
    assert made(cache, [3, 12, 12, 10, 5, 11])[0] == [12, 10, 11]
    assert_holds(cache, range(13))
    assert_holds(LatentCache(tmp_path / "cache"), range(13))


def test_absent_keys_are_not_found_even_beside_keys_that_begin_alike(tmp_path):
    keys = stack([b"12345678" + bytes([k] * 8) for k in (2, 4, 6)] + [b"\xff" * 16])
    (tmp_path / "moments").mkdir()
    rows = [np.float32([k]) for k in range(4)]
    write_shard(tmp_path / "moments", MOMENTS, [k.tobytes() for k in keys], rows)
    cache = LatentCache(tmp_path / "new", create=True)
    shutil.move(tmp_path / "moments", tmp_path / "new" / "moments")
    store = cache.store(MOMENTS)
    assert store.find(keys[::-1]).tolist() == [3, 2, 1, 0]
    others = [b"12345678" + bytes([k] * 8) for k in (1, 3, 5, 7)]
    assert store.find(stack([*others, b"\0" * 16, b"\xff" * 15 + b"\xfe"])).tolist() == [-1] * 6
    assert store.find(keys[:0]).tolist() == []


def test_batches_hold_one_group_each_in_the_order_of_rows(tmp_path):
    cache = LatentCache(tmp_path / "cache", create=True)
    batches = []

    def encode(loaded):
        batches.append(loaded)
        return [value(n) for n in loaded]

    group = np.array([n % 2 for n in range(10)])
    numbers = keys_of(range(10))
    build(cache.store(MOMENTS), numbers, lambda i: i, encode, group=group, batch_size=3)
    assert batches == [[0, 2, 4], [6, 8], [1, 3, 5], [7, 9]]


def test_a_bad_picture_is_reported_and_the_rest_is_made(tmp_path):
    cache = LatentCache(tmp_path / "cache", create=True)

    def load(i):
        if i == 2:
            raise BadPicture("truncated", "the file ends early")
        return i

    def encode(loaded):
        return [value(n) for n in loaded]

    bad = build(cache.store(MOMENTS), keys_of(range(5)), load, encode, batch_size=2)
    assert {k: v.code for k, v in bad.items()} == {keys_of([2]).tobytes(): "truncated"}
    assert_holds(cache, [0, 1, 3, 4])
    assert cache.store(MOMENTS).find(keys_of([2])).tolist() == [-1]


def test_values_that_are_not_finite_stop_the_build_by_name_and_keep_what_was_made(tmp_path):
    cache = LatentCache(tmp_path / "cache", create=True)

    def encode(loaded):
        return [np.full(3, np.nan if n == 5 else n, np.float32) for n in loaded]

    with pytest.raises(UserError, match=r"the moments of picture-5 are not finite"):
        build(
            cache.store(MOMENTS),
            keys_of(range(8)),
            lambda i: i,
            encode,
            batch_size=1,
            name=lambda i: f"picture-{i}",
        )
    store = LatentCache(tmp_path / "cache").store(MOMENTS)
    assert (store.find(keys_of(range(8))) >= 0).tolist() == [True] * 5 + [False] * 3


def test_shards_are_published_by_size(tmp_path):
    cache = LatentCache(tmp_path / "cache", create=True)
    made(cache, range(12), shard_bytes=100)
    assert len(cache.store(MOMENTS).shards) == 4  # of 32 + 64 + 96 bytes
    assert_holds(cache, range(12))


def test_a_disk_that_will_be_too_small_is_refused_after_the_first_batch(tmp_path, monkeypatch):
    cache = LatentCache(tmp_path / "cache", create=True)
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(cache_build.shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match=r"3,200 bytes, 1,000 are free: 2,200 bytes are missing"):
        build(
            cache.store(MOMENTS),
            keys_of(range(100)),
            lambda i: i,
            lambda loaded: [np.zeros(8, np.float32) for _ in loaded],
        )
    assert list((tmp_path / "cache").glob("moments/*")) == []


def test_a_damaged_shard_is_named_dropped_and_made_again(tmp_path):
    folder = tmp_path / "cache"
    made(LatentCache(folder, create=True), range(12), shard_bytes=200)
    victims = sorted(folder.glob("moments/*"))[:2]
    victims[0].write_bytes(victims[0].read_bytes()[:-1])
    whole = bytearray(victims[1].read_bytes())
    whole[600 + len(whole) % 8] ^= 4  # in the index
    victims[1].write_bytes(whole)
    cache = LatentCache(folder)
    store = cache.store(MOMENTS)
    lost = np.flatnonzero(store.find(keys_of(range(12))) < 0).tolist()
    assert 2 <= len(lost) < 12
    assert sorted(store.damaged) == victims
    assert all(victim.name in line for victim, line in zip(victims, cache.damaged, strict=True))
    assert store.remove_damaged()
    assert not any(victim.exists() for victim in victims)
    assert made(cache, range(12))[0] == lost
    assert_holds(cache, range(12))


def test_damaged_values_are_never_read(tmp_path):
    folder = tmp_path / "cache"
    made(LatentCache(folder, create=True), range(3))
    (shard,) = folder.glob("moments/*")
    whole = bytearray(shard.read_bytes())
    whole[-5] ^= 16  # in the last entry's values
    shard.write_bytes(whole)
    cache = LatentCache(folder)
    assert cache.damaged == []
    assert_holds(cache, [0, 1])
    with pytest.raises(DamagedShard, match="entry 2 has a wrong checksum"):
        held(cache, [2])


def test_a_store_travels_to_other_processes_without_its_maps(tmp_path):
    cache = LatentCache(tmp_path / "cache", create=True)
    made(cache, range(4))
    assert_holds(cache, range(4))
    sent = pickle.loads(pickle.dumps(cache.store(MOMENTS)))
    assert np.array_equal(sent.read(3), value(3))


def test_no_more_than_so_many_shards_are_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr("latentdiff.data.cache.latent_cache.OPEN_MAPS", 3)
    cache = LatentCache(tmp_path / "cache", create=True)
    made(cache, range(12), shard_bytes=1)
    assert len(cache.store(MOMENTS).shards) == 12
    for _ in range(2):
        assert_holds(cache, range(12))
    assert len(cache.store(MOMENTS)._maps) == 3


# -- several processes, and their ends ------------------------------------------------------------


def member(folder, team, numbers, delay, out):
    """One process of a build; module level, so that it can be spawned."""
    cache = LatentCache(folder, create=True)
    encoded = []

    def load(i):
        if numbers[i] == 7:
            raise BadPicture("truncated", "the file ends early")
        return numbers[i]

    def encode(loaded):
        time.sleep(delay)
        encoded.extend(loaded)
        return [value(n) for n in loaded]

    bad = build(
        cache.store(MOMENTS), keys_of(numbers), load, encode, team=team, batch_size=2, shard_bytes=1
    )
    found = cache.store(MOMENTS).find(keys_of(numbers))
    out.write_text(json.dumps([encoded, [k.hex() for k in bad], found.tolist()]))


def started(*args):
    process = multiprocessing.get_context("fork").Process(target=member, args=args)
    process.start()
    return process


def test_processes_share_the_work_and_all_see_the_whole(tmp_path):
    numbers = list(range(40))
    processes = [
        started(
            tmp_path / "cache", Team(rank, 3, "build-1"), numbers, 0.0, tmp_path / f"{rank}.json"
        )
        for rank in range(3)
    ]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert sorted(n for encoded, _, _ in told for n in encoded) == [n for n in numbers if n != 7]
    for encoded, bad, found in told:
        assert encoded
        assert bad == [keys_of([7]).tobytes().hex()]
        assert [n for n in numbers if found[n] < 0] == [7]


def test_a_killed_build_goes_on_with_another_number_of_processes(tmp_path):
    folder, numbers = tmp_path / "cache", list(range(60))
    process = started(folder, Team(0, 2, "first"), numbers, 0.05, tmp_path / "never.json")
    while len(list(folder.glob("moments/[!.]*"))) < 4:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    there = {n for n in numbers if LatentCache(folder).store(MOMENTS).find(keys_of([n]))[0] >= 0}
    assert 4 <= len(there) < 30
    encoded, _ = made(LatentCache(folder), numbers)
    assert sorted(encoded) == [n for n in numbers if n not in there]
    assert_holds(LatentCache(folder), numbers)


def test_what_a_killed_build_told_is_swept_and_that_of_a_living_one_stays(tmp_path):
    cache = LatentCache(tmp_path, create=True)
    program = "from latentdiff import files; print(files.process_token())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    living, dead, other = files.process_token(), done.stdout.strip(), "an-older-version"
    for token in (living, dead, other):
        (tmp_path / "builds" / token).mkdir(parents=True)
        (tmp_path / "builds" / token / "0001-moments-0.json").write_text("{}")
    made(cache, range(3))
    assert {path.name for path in (tmp_path / "builds").iterdir()} == {living, other}


def test_the_others_learn_of_a_failure_instead_of_waiting(tmp_path):
    cache = LatentCache(tmp_path / "cache", create=True)
    caught = []

    def failing():
        def load(i):
            raise UserError("the disk was pulled out")

        with pytest.raises(UserError, match="pulled out"):
            build(cache.store(MOMENTS), keys_of(range(8)), load, list, team=Team(1, 2, "t"))

    def waiting():
        try:
            made(LatentCache(tmp_path / "cache"), range(8), team=Team(0, 2, "t"))
        except UserError as error:
            caught.append(str(error))

    threads = [threading.Thread(target=waiting), threading.Thread(target=failing)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert caught == ["process 1 of the cache's build failed: the disk was pulled out"]


def test_a_silent_process_is_named_in_the_end(tmp_path):
    cache = LatentCache(tmp_path / "cache", create=True)
    with pytest.raises(UserError, match="process 1 of the cache's build has written nothing"):
        made(cache, range(8), team=Team(0, 2, "t", patience_minutes=0.001))


# -- the folder ------------------------------------------------------------------------------------


def test_a_folder_of_other_things_is_no_cache(tmp_path):
    with pytest.raises(UserError, match="it is empty"):
        LatentCache(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="holds other things"):
        LatentCache(tmp_path, create=True)
    with pytest.raises(UserError, match="is absent"):
        LatentCache(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_cache_of_a_newer_version_is_refused(tmp_path):
    LatentCache(tmp_path, create=True)
    mark = tmp_path / "cache.json"
    mark.write_text(mark.read_text().replace('"1"', '"2"'))
    with pytest.raises(UserError, match="of version 2; latentdiff-cache of version 1 is read"):
        LatentCache(tmp_path)
    mark.write_text("[]")
    with pytest.raises(UserError, match="cannot be read"):
        LatentCache(tmp_path)


def test_a_cache_in_use_cannot_be_taken_alone(tmp_path):
    first = LatentCache(tmp_path / "cache", create=True)
    second = LatentCache(tmp_path / "cache")
    with pytest.raises(UserError, match="in use by another process"):
        LatentCache(tmp_path / "cache", alone=True)
    first.close()
    second.close()
    alone = LatentCache(tmp_path / "cache", alone=True)
    with pytest.raises(UserError, match="being cleaned"):
        LatentCache(tmp_path / "cache")
    alone.close()
    LatentCache(tmp_path / "cache")


def test_what_a_killed_write_left_goes_when_it_is_old(tmp_path):
    cache = LatentCache(tmp_path / "cache", create=True)
    folder = tmp_path / "cache" / CONTEXTS
    folder.mkdir()
    old, new = folder / ".tmp-old.safetensors", folder / ".tmp-new.safetensors"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    build(cache.store(CONTEXTS), keys_of([]), lambda i: i, list)
    assert (old.exists(), new.exists()) == (False, True)
    assert cache.damaged == []


def test_what_a_killed_build_left_goes_when_the_cache_is_opened_again(tmp_path):
    LatentCache(tmp_path / "cache", create=True).close()
    child = multiprocessing.get_context("fork").Process(target=die_in_a_write, args=(tmp_path,))
    child.start()
    child.join(30)
    left = list((tmp_path / "cache").rglob(".tmp-*"))
    assert len(left) == 2
    cache = LatentCache(tmp_path / "cache")  # whoever only reads deletes nothing
    assert all(path.exists() for path in left)
    cache.close()
    with files.atomic_path(tmp_path / "cache" / MOMENTS / "mine.safetensors") as mine:
        mine.touch()
        LatentCache(tmp_path / "cache", create=True).close()
        assert mine.exists()
    assert list((tmp_path / "cache").rglob(".tmp-*")) == []


def die_in_a_write(folder):
    cache = folder / "cache"
    with (
        files.atomic_path(cache / MOMENTS / "a.safetensors") as one,
        files.atomic_path(cache / "uses" / "b.safetensors") as two,
    ):
        one.touch()
        two.touch()
        os._exit(9)
