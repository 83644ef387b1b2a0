"""A picture file is read when its stamp is new, and never otherwise; what no use wants can go."""

import hashlib
import multiprocessing

import numpy as np
import pytest

from latentdiff.data.cache import clean as cache_clean
from latentdiff.data.cache import uses as cache_uses
from latentdiff.data.cache.build import Team, build
from latentdiff.data.cache.content_index import read_all, scan
from latentdiff.data.cache.keys import stack
from latentdiff.data.cache.latent_cache import CONTENTS, CONTEXTS, MOMENTS, LatentCache
from latentdiff.data.records import BadPicture, Source
from latentdiff.errors import UserError


class Pictures:
    """Bytes by name; a byte's value stands for the width. Counts what is read."""

    def __init__(self, **content):
        self.content = content
        self.stamps = {name: f"{name} 1" for name in content}
        self.names = list(content)
        self.read_rows = []
        self.name = self.summary = "made up"
        self.problems = ()

    def __len__(self):
        return len(self.names)

    def id(self, row):
        return self.names[row]

    def captions(self, row):
        return (f"a {self.names[row]}",)

    def read(self, row):
        self.read_rows.append(self.names[row])
        if self.names[row] == "gone":
            raise BadPicture("missing", "the file is gone")
        return self.content[self.names[row]]

    def stamp(self, row):
        if self.names[row] == "deleted":
            raise FileNotFoundError(2, "No such file or directory")
        return self.stamps[self.names[row]]


def measure(data):
    if data == b"bad":
        raise BadPicture("truncated", "the file ends early")
    return data[0], 7


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def fresh(folder):
    return LatentCache(folder, create=True)


def test_contents_are_hashes_and_sizes_by_row(folder):
    source = Pictures(cat=b"1xyz", dog=b"2", cat_again=b"1xyz")
    assert isinstance(source, Source)
    found = scan(fresh(folder), source, measure)
    expected = [hashlib.sha256(data).digest() for data in source.content.values()]
    assert [row.tobytes() for row in found.digests] == expected
    assert found.sizes.tolist() == [[ord("1"), 7], [ord("2"), 7], [ord("1"), 7]]
    assert found.bad == {}
    assert len(found) == 3


def test_without_a_cache_the_contents_are_the_same(folder):
    source = Pictures(cat=b"1xyz", gone=b"", poor=b"bad", dog=b"2")
    told = []
    plain = read_all(source, measure, workers=2, progress=lambda *done: told.append(done))
    cached = scan(fresh(folder), source, measure)
    assert plain.sizes.tolist() == cached.sizes.tolist() == [[49, 7], [0, 0], [0, 0], [50, 7]]
    assert plain.fingerprint == cached.fingerprint
    codes = {row: problem.code for row, problem in plain.bad.items()}
    assert codes == {1: "missing", 2: "truncated"} and plain.bad.keys() == cached.bad.keys()
    assert told == [(k, 4) for k in (1, 2, 3, 4)]


def test_only_new_stamps_are_read(folder):
    source = Pictures(cat=b"1", dog=b"2", fox=b"3")
    first = scan(fresh(folder), source, measure)
    source.read_rows.clear()
    again = scan(fresh(folder), source, measure)
    assert source.read_rows == []
    assert again.fingerprint == first.fingerprint
    source.content["dog"], source.stamps["dog"] = b"9", "dog 2"
    edited = scan(fresh(folder), source, measure)
    assert source.read_rows == ["dog"]
    assert edited.sizes[1].tolist() == [ord("9"), 7]
    assert edited.fingerprint != first.fingerprint


def test_reread_sees_an_edit_that_kept_its_stamp(folder):
    source = Pictures(cat=b"1", dog=b"2")
    scan(fresh(folder), source, measure)
    source.content["dog"] = b"9"
    assert scan(fresh(folder), source, measure).sizes[1, 0] == ord("2")
    assert scan(fresh(folder), source, measure, reread=True).sizes[1, 0] == ord("9")
    assert scan(fresh(folder), source, measure).sizes[1, 0] == ord("9")


def test_bad_pictures_are_told_by_row_and_tried_again(folder):
    source = Pictures(cat=b"1", broken=b"bad", gone=b"", deleted=b"4", fox=b"3")
    found = scan(fresh(folder), source, measure)
    codes = {row: problem.code for row, problem in found.bad.items()}
    assert codes == {1: "truncated", 2: "missing", 3: "unreadable"}
    assert found.sizes[1:4].tolist() == [[0, 0]] * 3
    assert (found.sizes[[0, 4]] > 0).all()
    source.content["broken"] = b"5"
    source.read_rows.clear()
    assert 1 not in scan(fresh(folder), source, measure).bad
    assert source.read_rows == ["broken", "gone"]


def test_a_damaged_memory_is_read_anew(folder):
    source = Pictures(cat=b"1", dog=b"2")
    first = scan(fresh(folder), source, measure)
    (shard,) = folder.glob("contents/*")
    whole = bytearray(shard.read_bytes())
    whole[-1] ^= 1  # a height that no index guards
    shard.write_bytes(whole)
    source = Pictures(cat=b"1", dog=b"2", fox=b"3")
    again = scan(fresh(folder), source, measure)
    assert sorted(source.read_rows) == ["cat", "dog", "fox"]
    assert np.array_equal(again.sizes[:2], first.sizes)
    assert not shard.exists()


def scanned(folder, rank, queue):
    source = Pictures(**{f"p{k}": bytes([k + 1]) for k in range(40)})
    found = scan(fresh(folder), source, measure, team=Team(rank, 2, "t"), reread=True)
    queue.put((found.fingerprint, sorted(source.read_rows)))


def test_processes_share_the_reading(folder):
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    for rank in range(2):
        fork.Process(target=scanned, args=(folder, rank, queue)).start()
    (one, mine), (two, yours) = queue.get(timeout=30), queue.get(timeout=30)
    assert one == two
    assert mine
    assert yours
    assert sorted(mine + yours) == sorted(f"p{k}" for k in range(40))


# -- uses and cleaning -----------------------------------------------------------------------------


def keys_of(*numbers):
    return stack(b"key %12d" % n for n in numbers)


def filled(folder, *numbers, **options):
    cache = fresh(folder)
    build(
        cache.store(MOMENTS),
        keys_of(*numbers),
        lambda i: numbers[i],
        lambda loaded: [np.full(100, n, np.float32) for n in loaded],
        **options,
    )
    return cache


def test_a_use_is_replaced_by_the_same_use_with_other_keys(folder):
    cache = fresh(folder)
    about = {"data": "photos", "model": "snowglobe"}
    first = cache_uses.record(cache, about, {MOMENTS: keys_of(1, 2), CONTEXTS: keys_of(3)})
    cache_uses.record(cache, {**about, "data": "scenes"}, {MOMENTS: keys_of(7)})
    second = cache_uses.record(cache, about, {MOMENTS: keys_of(1), CONTEXTS: keys_of()})
    assert first.id == second.id
    listed = cache_uses.listed(cache)
    assert [use.about["data"] for use in listed] == ["photos", "scenes"]
    assert listed[0].entries == {MOMENTS: 1}
    assert np.array_equal(cache_uses.keys_of(listed[0])[MOMENTS], keys_of(1))
    assert 0 <= listed[0].days < 1


def test_cleaning_keeps_what_uses_want_and_frees_the_rest(folder):
    filled(folder, 1, 2, 3, shard_bytes=1)
    cache = filled(folder, 4, 5, 6)
    keep = cache_uses.record(cache, {"data": "kept"}, {MOMENTS: keys_of(2, 5, 6)})
    cache_uses.record(cache, {"data": "old"}, {MOMENTS: keys_of(1, 4)})
    cache.close()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    planned = cache_clean.collect(LatentCache(folder), [keep], dry_run=True)[0]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = cache_clean.collect(LatentCache(folder, alone=True), [keep])[0]
    assert planned == done
    assert (done.kept, done.dropped, done.bytes_freed) == (3, 3, 3 * 400)
    assert (done.shards_before, done.shards_after) == (4, 1)
    store = LatentCache(folder).store(MOMENTS)
    assert (store.find(keys_of(1, 2, 3, 4, 5, 6)) >= 0).tolist() == [False, True] + [False] * 2 + [
        True
    ] * 2
    assert store.read(int(store.find(keys_of(5))[0])).tolist() == [5.0] * 100
    assert [use.about["data"] for use in cache_uses.listed(LatentCache(folder))] == ["kept"]
    again = cache_clean.collect(LatentCache(folder, alone=True), [keep])[0]
    assert (again.dropped, again.bytes_freed, again.shards_after) == (0, 0, 1)


def test_cleaning_leaves_damaged_entries_behind_by_name(folder):
    cache = filled(folder, 1, 2, 3)
    use = cache_uses.record(cache, {"data": "all"}, {MOMENTS: keys_of(1, 3)})
    (shard,) = folder.glob("moments/*")
    whole = bytearray(shard.read_bytes())
    whole[-1] ^= 1
    shard.write_bytes(whole)
    cache.close()
    (line,) = cache_clean.collect(LatentCache(folder, alone=True), [use])[0].damaged
    assert shard.name in line
    store = LatentCache(folder).store(MOMENTS)
    assert (store.find(keys_of(1, 2, 3)) >= 0).tolist() == [True, False, False]


def test_cleaning_that_is_killed_between_writing_and_deleting_loses_nothing(folder, monkeypatch):
    cache = filled(folder, 1, 2, 3)
    use = cache_uses.record(cache, {"data": "all"}, {MOMENTS: keys_of(1, 3)})
    cache.close()
    del cache

    def killed(path, missing_ok=False):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        cache_clean.collect(LatentCache(folder, alone=True), [use])
    monkeypatch.undo()
    store = LatentCache(folder).store(MOMENTS)
    assert (store.find(keys_of(1, 2, 3)) >= 0).all()


def test_a_use_that_cannot_be_read_stops_the_cleaning(folder):
    cache = filled(folder, 1)
    use = cache_uses.record(cache, {"data": "all"}, {MOMENTS: keys_of(1)})
    use.path.write_bytes(use.path.read_bytes()[:-3])
    with pytest.raises(UserError, match=f"{use.id}.safetensors cannot be read"):
        cache_uses.listed(cache)


def test_verify_reads_every_byte(folder):
    cache = filled(folder, 1, 2, 3, shard_bytes=1)
    build(cache.store(CONTENTS), keys_of(1), lambda i: np.zeros(40, np.uint8), list)
    assert [problem for _, problem in cache_clean.verify(cache)] == [""] * 4
    victim = sorted(folder.glob("moments/*"))[1]
    whole = bytearray(victim.read_bytes())
    whole[-1] ^= 1
    victim.write_bytes(whole)
    found = {path: problem for path, problem in cache_clean.verify(LatentCache(folder)) if problem}
    assert list(found) == [victim]
    assert "SHA-256 is not its name" in found[victim]
