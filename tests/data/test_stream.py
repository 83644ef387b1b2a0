"""A stream is a pure function of its shards, its seed, and who asks."""

import gzip
import itertools
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_archives import bad_archives, sample, tar_bytes

from latentdiff.data.sources.stream import StreamSource, open_stream
from latentdiff.errors import UserError


def shards(folder: Path, *counts: int) -> Path:
    folder.mkdir(exist_ok=True)
    for k, count in enumerate(counts):
        members = [m for i in range(count) for m in sample(f"{k}-{i}", f"caption {k}-{i}")]
        (folder / f"s-{k:03}.tar").write_bytes(tar_bytes(members))
    return folder


def ids(stream: StreamSource, count: int, start: int = 0) -> list[str]:
    return [name for name, _, _ in itertools.islice(stream.samples(start), count)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_together_the_processes_see_each_sample_once_an_epoch(
    tmp_path: Path, world_size: int
) -> None:
    where = shards(tmp_path / "d", 5, 3, 7, 1)
    epochs: list[Counter[str]] = [Counter(), Counter()]
    for rank in range(world_size):
        stream = open_stream(where, rank=rank, world_size=world_size, seed=1, shuffle_buffer=4)
        for epoch in (0, 1):
            epochs[epoch].update(e["id"] for e in stream._epoch(epoch))
    assert all(set(seen.values()) == {1} and len(seen) == 16 for seen in epochs)


def test_processes_that_divide_the_shards_share_none(tmp_path: Path) -> None:
    where = shards(tmp_path / "d", 5, 3, 7, 1)
    seen = [
        {e["file"] for e in open_stream(where, rank=rank, world_size=2)._epoch(0)}
        for rank in (0, 1)
    ]
    assert [len(files) for files in seen] == [2, 2]
    assert not seen[0] & seen[1]


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (2, 3)])
def test_any_number_of_resumes_reads_on_exactly(tmp_path: Path, rank: int, world_size: int) -> None:
    where = shards(tmp_path / "d", 5, 3, 7, 1)

    def fresh() -> StreamSource:
        return open_stream(where, rank=rank, world_size=world_size, seed=3, shuffle_buffer=4)

    whole = ids(fresh(), 60)
    position, pieces = 0, []
    for length in (7, 1, 20, 9, 23):  # each piece by a process that knows only its position
        pieces += ids(fresh(), length, position)
        position += length
    assert pieces == whole
    assert len(set(whole[:5])) == 5


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path: Path) -> None:
    where = shards(tmp_path / "d", 20)
    stream = open_stream(where, seed=1, shuffle_buffer=100)
    first, second = ids(stream, 20), ids(stream, 20, 20)
    assert sorted(first) == sorted(second)
    assert first != second
    assert ids(open_stream(where, seed=2, shuffle_buffer=100), 20) != first
    assert ids(open_stream(where, seed=1, shuffle_buffer=100), 20) == first


def test_one_sample_can_be_asked_for_forwards_and_back(tmp_path: Path) -> None:
    stream = open_stream(shards(tmp_path / "d", 4, 4), seed=1, shuffle_buffer=3)
    whole = list(itertools.islice(stream.samples(0), 30))
    for index in (0, 1, 5, 29, 2, 3, 3):
        assert stream.sample(index) == whole[index]
    assert pickle.loads(pickle.dumps(stream)).sample(17) == whole[17]


def test_what_is_passed_over_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import latentdiff.data.sources.stream as module

    read = []
    monkeypatch.setattr(module, "read_at", lambda *place: read.append(place) or b"picture")
    stream = open_stream(shards(tmp_path / "d", 30), seed=1, shuffle_buffer=8)
    assert next(stream.samples(70))[2] == b"picture"
    assert len(read) == 1


def test_captions_and_pictures_belong_together(tmp_path: Path) -> None:
    stream = open_stream(shards(tmp_path / "d", 6, 6), seed=1, shuffle_buffer=5)
    picture = sample("x")[0][1]
    for name, captions, data in itertools.islice(stream.samples(0), 24):
        assert captions == (f"caption {name.partition('#')[2]}",)
        assert data == picture


def test_a_worker_reads_the_same_stream(tmp_path: Path) -> None:
    import torch

    where = shards(tmp_path / "d", 6, 6)

    class Positions(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[str]:
            stream = open_stream(where, seed=1, shuffle_buffer=5)
            yield from ids(stream, 12)

    expected = ids(open_stream(where, seed=1, shuffle_buffer=5), 12)
    loader = torch.utils.data.DataLoader(Positions(), batch_size=None, num_workers=2)
    assert Counter(loader) == Counter(expected * 2)


def test_packed_and_remote_shards_stream_as_plain_ones_do(tmp_path: Path) -> None:
    where = shards(tmp_path / "d", 3, 2)
    expected = ids(open_stream(where, seed=1), 15)
    remote = open_stream(f"file://{where}/s-{{000..001}}.tar", seed=1)
    assert ids(remote, 15) == expected
    for shard in list(where.iterdir()):
        shard.with_suffix(".tar.gz").write_bytes(gzip.compress(shard.read_bytes()))
        shard.unlink()
    packed = [name.replace(".tar.gz", ".tar") for name in ids(open_stream(where, seed=1), 15)]
    assert packed == expected


def test_problems_of_shards_are_named_once(tmp_path: Path) -> None:
    place = tmp_path / "d"
    place.mkdir()
    bad = bad_archives(tmp_path / "bad", empty_members=0)
    for name in ("dot-dot.tar", "link-out.tar"):
        (place / name).write_bytes(bad[name].read_bytes())
    stream = open_stream(place)
    assert len(ids(stream, 6)) == 6
    assert sorted(p.code for p in stream.problems) == ["member-kind", "path-out", "path-out"]
    assert "left out" in stream.summary


def test_what_cannot_be_streamed_is_one_line(tmp_path: Path) -> None:
    where = shards(tmp_path / "d", 1)
    for options, words in (
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0"),
        ({"caption_template": "x"}, "caption template"),
    ):
        with pytest.raises(UserError, match=words):
            open_stream(where, **options)
    with pytest.raises(UserError, match="no usable sample for process 1 of 2"):
        next(open_stream(where, rank=1, world_size=2).samples(0))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no tar shard"):
        open_stream(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        next(open_stream("file:///nowhere/{0..1}.tar").samples(0))


def test_the_fingerprint_changes_with_the_shards(tmp_path: Path) -> None:
    where = shards(tmp_path / "d", 2)
    before = open_stream(where).fingerprint
    assert open_stream(where).fingerprint == before
    shards(where, 3)
    assert open_stream(where).fingerprint != before
