"""Pictures inside parquet files and tar shards open as what they are."""

import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_archives import sample, tar_bytes
from bad_input import encoded, scene
from made_sources import PICTURE, listed, parquet

from latentdiff.data.records import BadPicture
from latentdiff.data.sources import open_source
from latentdiff.data.sources.find import expand
from latentdiff.data.sources.packed import printable
from latentdiff.errors import UserError


def test_parquet_files_open_alone_by_pattern_and_by_split(tmp_path: Path) -> None:
    parquet(tmp_path / "d" / "x-train-0.parquet", ["a", "b"])
    parquet(tmp_path / "d" / "x-train-1.parquet", ["c"])
    parquet(tmp_path / "d" / "x-validation.parquet", ["v"])
    source = open_source(tmp_path / "d", split="train")
    assert listed(source) == {
        "x-train-0.parquet#0": ("a",),
        "x-train-0.parquet#1": ("b",),
        "x-train-1.parquet#0": ("c",),
    }
    assert source.read(1) == encoded(scene(shade=1), "PNG")
    assert len({source.stamp(row) for row in range(3)}) == 3
    assert listed(open_source(tmp_path / "d" / "x-validation.parquet")) == {
        "x-validation.parquet#0": ("v",)
    }
    assert len(open_source(str(tmp_path / "d" / "x-train-*.parquet"))) == 3
    with pytest.raises(UserError, match="several splits"):
        open_source(tmp_path / "d")


def test_a_rewritten_parquet_file_is_read_anew(tmp_path: Path) -> None:
    where = parquet(tmp_path / "x.parquet", ["old"])
    before = open_source(where)
    stamp = before.stamp(0)
    parquet(where, ["new", "newer"])
    os.utime(where, ns=(1, 1))
    after = open_source(where)
    assert listed(after) == {"x.parquet#0": ("new",), "x.parquet#1": ("newer",)}
    assert after.stamp(0) != stamp


def test_rows_of_parquet_without_picture_or_caption_are_left_out_by_name(tmp_path: Path) -> None:
    where = tmp_path / "x.parquet"
    images = [{"bytes": PICTURE, "path": None}, None, {"bytes": None, "path": "a.png"}]
    images += [{"bytes": PICTURE, "path": None}]
    pq.write_table(pa.table({"image": images, "text": ["a", "b", "c", None]}), where)
    source = open_source(where)
    assert listed(source) == {"x.parquet#0": ("a",)}
    assert [(p.where, p.code) for p in source.problems] == [
        ("x.parquet#1", "missing"),
        ("x.parquet#2", "missing"),
        ("x.parquet#3", "caption-missing"),
    ]
    assert "3 left out" not in source.summary
    assert source.summary.endswith("; left out: 2 missing, 1 caption-missing")


def test_labels_of_parquet_become_captions_when_there_are_none(tmp_path: Path) -> None:
    table = pa.table({"image": [PICTURE, PICTURE], "label": ["owl", "red_fox"]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet")
    assert list(listed(source).values()) == [("a photo of an owl",), ("a photo of a red fox",)]
    assert source.read(0) == PICTURE


def test_the_names_of_class_labels_are_used(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "owl"])}
    )
    rows = {"image": [{"bytes": PICTURE, "path": None}] * 2, "label": [1, 0]}
    pq.write_table(pa.table(rows, schema=features.arrow_schema), tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet")
    assert list(listed(source).values()) == [("a photo of an owl",), ("a photo of a cat",)]


def test_a_broken_or_pictureless_parquet_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(
        parquet(tmp_path / "x.parquet", ["a"]).read_bytes()[:-20]
    )
    with pytest.raises(UserError, match="not a readable parquet file") as refused:
        open_source(tmp_path / "cut.parquet")
    assert "\n" not in str(refused.value)
    pq.write_table(pa.table({"text": ["a"], "score": [1.0]}), tmp_path / "none.parquet")
    with pytest.raises(UserError, match="none found among text, score"):
        open_source(tmp_path / "none.parquet")
    with pytest.raises(UserError, match="did you mean --caption-column text"):
        open_source(tmp_path / "x.parquet", caption_column="txt")


def test_tar_shards_open_by_file_folder_and_pattern(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"s-{k:03}.tar").write_bytes(tar_bytes(sample(f"{k}/a", f"c{k}")))
    expected = {f"s-{k:03}.tar#{k}/a": (f"c{k}",) for k in range(3)}
    assert listed(open_source(tmp_path)) == expected
    assert listed(open_source(str(tmp_path / "s-{000..002}.tar"))) == expected
    assert listed(open_source(str(tmp_path / "*.tar"))) == expected
    with pytest.raises(UserError, match=r"s-003.tar is missing"):
        open_source(str(tmp_path / "s-{000..004}.tar"))
    with pytest.raises(UserError, match="count up"):
        expand("s-{3..1}.tar")


def test_captions_of_tar_samples_come_from_txt_json_or_class(tmp_path: Path) -> None:
    members = []
    for key, ending, content in (
        ("a", "json", '{"caption": ["one", "two"], "alt": "other"}'),
        ("b", "cls", "owl"),
        ("c", "json", "{"),
    ):
        picture, (info, _) = sample(key)
        info.name, info.size = f"{key}.{ending}", len(content)
        members += [picture, (info, content.encode())]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    source = open_source(tmp_path / "x.tar")
    assert listed(source) == {"x.tar#a": ("one", "two"), "x.tar#b": ("a photo of an owl",)}
    assert [(p.where, p.code) for p in source.problems] == [("x.tar#c", "caption-missing")]
    named = open_source(tmp_path / "x.tar", caption_column="alt")
    assert named.captions(0) == ("other",)


@pytest.mark.parametrize("order", [("txt", "json"), ("json", "txt")])
def test_the_txt_of_a_sample_wins_over_its_json_wherever_it_stands(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    contents = {"txt": b"of the txt", "json": b'{"text": "of the json"}'}
    members = sample("a")[:1]
    for ending in order:
        info = tarfile.TarInfo(f"a.{ending}")
        info.size = len(contents[ending])
        members.append((info, contents[ending]))
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    assert open_source(tmp_path / "x.tar").captions(0) == ("of the txt",)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_gives_the_members_that_tarfile_gives(tmp_path: Path, form: int) -> None:
    names = ["a.png", "d/" * 40 + "b.png"]
    if form != tarfile.USTAR_FORMAT:
        names += ["long/" * 50 + "é.png", "x" * 240 + ".png"]
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
        for k, name in enumerate(names):
            path = tmp_path / "one.png"
            path.write_bytes(encoded(scene(shade=k), "PNG"))
            archive.add(path, name)
    source = open_source(tmp_path / "x.tar", need_captions=False)
    with tarfile.open(tmp_path / "x.tar") as archive:
        for row, member in enumerate(archive):
            content = archive.extractfile(member)
            assert content is not None
            assert source.read(row) == content.read()
            assert source.id(row) == f"x.tar#{printable(member.name)[:-4]}"


def test_a_shard_that_was_cut_after_listing_is_a_bad_picture(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes(sample("a")))
    source = open_source(tmp_path / "x.tar")
    os.truncate(tmp_path / "x.tar", 600)
    with pytest.raises(BadPicture) as refused:
        source.read(0)
    assert refused.value.code == "truncated"
