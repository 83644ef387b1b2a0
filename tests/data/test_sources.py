"""Each layout opens as what it is; a wrong one is told what was expected, and the fix."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_archives import sample, tar_bytes
from made_sources import PICTURE, fill, lines, listed, parquet

from latentdiff.data.decode.decoding import decode
from latentdiff.data.records import Source
from latentdiff.data.sources import open_source
from latentdiff.data.sources.packed import CaptionsBuilder, PackedStrings, printable
from latentdiff.data.sources.text import from_label
from latentdiff.errors import UserError


def test_every_kind_is_a_source_and_survives_the_way_to_a_worker(tmp_path: Path) -> None:
    sidecars = fill(tmp_path / "sidecars", "a.png")
    (sidecars / "a.txt").write_text("a dog")
    (tmp_path / "x.tar").write_bytes(tar_bytes(sample("a", "a dog")))
    for where in (sidecars, parquet(tmp_path / "x.parquet", ["a dog"]), tmp_path / "x.tar"):
        source = open_source(where)
        assert isinstance(source, Source)
        for one in (source, pickle.loads(pickle.dumps(source))):
            assert one.captions(0) == ("a dog",)
            assert decode(one.read(0)).image.size == (48, 32)
            assert one.name == str(where)
            assert one.summary.startswith(f"{where}: 1 picture, 1 caption (")
            assert one.stamp(0) == source.stamp(0)
        for bad in (-1, 1):
            with pytest.raises(IndexError):
                source.captions(bad)


def test_a_table_gives_its_order_its_captions_and_several_of_them(tmp_path: Path) -> None:
    fill(tmp_path, "b.png", "sub/a.png")
    rows = lines(
        {"file_name": "sub/a.png", "text": ["one", "two"]}, {"file_name": "b.png", "text": "three"}
    )
    (tmp_path / "metadata.jsonl").write_text(rows)
    source = open_source(tmp_path)
    assert list(listed(source).items()) == [("sub/a.png", ("one", "two")), ("b.png", ("three",))]
    assert source.summary.endswith(": 2 pictures, 3 captions (metadata.jsonl, text)")


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_the_same_table_reads_the_same_in_every_format(tmp_path: Path, column: str) -> None:
    rows = [{"file_name": "a.png", column: "a dog, sitting"}, {"file_name": "b.png", column: "b"}]
    texts = {
        "metadata.jsonl": lines(*rows),
        "metadata.csv": f'file_name,{column}\na.png,"a dog, sitting"\nb.png,b\n',
        "semicolons.csv": f"file_name;{column}\na.png;a dog, sitting\nb.png;b\n",
        "tabs.csv": f"\ufefffile_name\t{column}\na.png\ta dog, sitting\nb.png\tb\n",
    }
    expected = {"a.png": ("a dog, sitting",), "b.png": ("b",)}
    for name, text in texts.items():
        folder = fill(tmp_path / name.replace(".", "-"), "a.png", "b.png")
        (folder / name).write_text(text)
        assert listed(open_source(folder / name)) == expected
    folder = fill(tmp_path / "parquet", "a.png", "b.png")
    pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    assert listed(open_source(folder)) == expected
    assert listed(open_source(folder / "metadata.parquet")) == expected


def test_a_manifest_under_any_name_opens_by_its_path(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "manifest.jsonl").write_text(lines({"file_name": "b.png", "text": "b"}))
    source = open_source(tmp_path / "manifest.jsonl")
    assert listed(source) == {"b.png": ("b",)}
    assert not source.problems


def test_columns_can_be_named(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(lines({"img": "a.png", "alt": "a dog"}))
    with pytest.raises(UserError, match="Did you mean --image-column img"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="no column 'alternative'"):
        open_source(tmp_path, image_column="img", caption_column="alternative")
    source = open_source(tmp_path, image_column="img", caption_column="alt")
    assert listed(source) == {"a.png": ("a dog",)}


def test_a_disagreement_is_settled_by_the_flag_that_the_message_names(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.jsonl").write_text(
        lines({"file_name": "a.png", "text": "a dog"}, {"file_name": "b.png", "text": "b"})
    )
    (tmp_path / "b.txt").write_text("b\n")
    assert listed(open_source(tmp_path)) == {"a.png": ("a dog",), "b.png": ("b",)}
    (tmp_path / "a.txt").write_text("a cat")
    with pytest.raises(UserError, match=r"1 pictures .*'a dog' against 'a cat'.*--captions-from"):
        open_source(tmp_path)
    assert open_source(tmp_path, captions_from="metadata").captions(0) == ("a dog",)
    assert open_source(tmp_path, captions_from="sidecars").captions(0) == ("a cat",)


def test_folders_of_classes_are_captioned_by_the_template(tmp_path: Path) -> None:
    fill(tmp_path, "red_fox/1.png", "red_fox/deep/2.png", "owl/1.jpg", "stray.png")
    source = open_source(tmp_path)
    assert listed(source) == {
        "owl/1.jpg": ("a photo of an owl",),
        "red_fox/1.png": ("a photo of a red fox",),
        "red_fox/deep/2.png": ("a photo of a red fox",),
    }
    assert [(p.where, p.code) for p in source.problems] == [("stray.png", "caption-missing")]
    other = open_source(tmp_path, caption_template="{label}, oil on canvas")
    assert other.captions(0) == ("owl, oil on canvas",)
    with pytest.raises(UserError, match=r"must hold \{label\}"):
        open_source(tmp_path, caption_template="a photo of a {name}")


def test_an_article_before_a_vowel_is_an() -> None:
    assert from_label("automobile", "a photo of a {label}") == "a photo of an automobile"
    assert from_label("Owl-night", "A {label}") == "An Owl night"
    assert from_label("{x}", "a {label}") == "a {x}"


def test_splits_are_asked_for_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "train/a.png", "val/b.png")
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / split / f"{name}.txt").write_text(name)
    with pytest.raises(UserError, match="holds the splits train, val; say which"):
        open_source(tmp_path)
    assert listed(open_source(tmp_path, split="val")) == {"b.png": ("b",)}
    with pytest.raises(UserError, match="no folder 'test'"):
        open_source(tmp_path, split="test")


def test_a_caption_in_a_table_can_be_too_long(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png")
    rows = lines({"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": "b" * 20_001})
    (tmp_path / "metadata.jsonl").write_text(rows)
    source = open_source(tmp_path)
    assert listed(source) == {"a.png": ("a",)}
    assert [p.code for p in source.problems] == ["caption-long"]


def test_pictures_without_captions_get_a_two_line_fix_that_works(tmp_path: Path) -> None:
    place = fill(tmp_path / "my cat's pictures", "a.png", "b.png")
    for fix in (0, 1):
        with pytest.raises(UserError, match="2 pictures without captions") as refused:
            open_source(place)
        first, *fixes = str(refused.value).splitlines()
        assert "expected metadata.jsonl, .txt sidecars, or a folder for each class" in first
        assert len(fixes) == 2
        subprocess.run(fixes[fix], shell=True, check=True)
        assert listed(open_source(place)) == {"a.png": ("a photo of my dog",)}
        for made in ("a.txt", "metadata.jsonl"):
            (place / made).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("made", "guess"),
    [
        ("captions.json", "captions.json may hold the captions"),
        ("a.tags", "must end in .txt or .caption"),
        ("other.txt", "other.txt is named like no picture"),
    ],
)
def test_a_wrong_layout_names_the_nearest_guess(tmp_path: Path, made: str, guess: str) -> None:
    fill(tmp_path, "a.png")
    (tmp_path / made).write_text("a dog")
    with pytest.raises(UserError, match=guess):
        open_source(tmp_path)


def test_what_is_not_there_names_what_is(tmp_path: Path) -> None:
    fill(tmp_path / "pictures", "a.png")
    with pytest.raises(UserError, match=r"did you mean .*/pictures"):
        open_source(tmp_path / "picture")
    with pytest.raises(UserError, match="is one picture; give the folder"):
        open_source(tmp_path / "pictures" / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="It is empty"):
        open_source(tmp_path / "empty")
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="is no data set"):
        open_source(tmp_path / "x.zip")
    with pytest.raises(UserError):
        open_source("a\0b")
    with pytest.raises(UserError):
        open_source("n" * 5000)


def test_a_table_below_the_folder_is_pointed_to(tmp_path: Path) -> None:
    fill(tmp_path, "deep/images/a.png")
    (tmp_path / "deep" / "metadata.jsonl").write_text(
        lines({"file_name": "images/a.png", "text": "a"})
    )
    with pytest.raises(UserError, match=r"holds no metadata.jsonl .* but .*/deep does; open that"):
        open_source(tmp_path)


def test_a_table_whose_paths_start_elsewhere_is_told_where_the_files_are(tmp_path: Path) -> None:
    fill(tmp_path, "images/a.png")
    (tmp_path / "metadata.jsonl").write_text(lines({"file_name": "a.png", "text": "a"}))
    with pytest.raises(UserError, match=r"images/a\.png has that name"):
        open_source(tmp_path)


def test_a_hub_name_offline_is_one_error() -> None:
    with pytest.raises(UserError, match="nobody/nothing is not in the cache") as refused:
        open_source("nobody/nothing")
    assert "\n" not in str(refused.value)


def test_a_bare_name_never_asks_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentdiff.files import hub

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "fetch", asked)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"pets is not there; .* \(owner/name\)"):
        open_source("pets")


def test_an_edited_file_has_another_stamp(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    source = open_source(tmp_path)
    stamps = [source.stamp(row) for row in range(2)]
    (tmp_path / "a.png").write_bytes(PICTURE + b"more")
    assert source.stamp(0) != stamps[0]
    assert source.stamp(1) == stamps[1]
    assert stamps[0] != stamps[1]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    place = fill(tmp_path / "data", "a.png")
    (place / "a.txt").write_text("a")
    fill(tmp_path / "elsewhere", "b.png")
    (place / "out").symlink_to(tmp_path / "elsewhere")
    (place / "round").symlink_to(place)
    source = open_source(place)
    assert listed(source) == {"a.png": ("a",)}
    assert sorted((p.where, p.code, p.fatal) for p in source.problems) == [
        ("out", "link", False),
        ("round", "link", False),
    ]
    (place / "metadata.jsonl").write_text(
        lines({"file_name": "out/b.png", "text": "b"}, {"file_name": "a.png", "text": "a"})
    )
    assert [p.code for p in open_source(place).problems if p.fatal] == ["path-out"]


def test_hidden_files_are_passed_over_and_foreign_ones_named(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "._a.png", "__MACOSX/a.png", "b.HEIC", "c.gif")
    (tmp_path / "a.txt").write_text("a")
    source = open_source(tmp_path)
    assert listed(source) == {"a.png": ("a",)}
    assert [(p.where, p.code) for p in source.problems] == [
        ("b.HEIC", "format"),
        ("c.gif", "format"),
    ]
    with_gif = open_source(tmp_path, allow_gif_tiff=True, need_captions=False)
    assert "c.gif" in listed(with_gif)


def test_a_name_that_a_mac_wrote_is_found_in_its_other_form(tmp_path: Path) -> None:
    fill(tmp_path, "cafe\u0301.png")
    (tmp_path / "metadata.jsonl").write_text(lines({"file_name": "caf\u00e9.png", "text": "a"}))
    assert list(listed(open_source(tmp_path)).values()) == [("a",)]


def test_windows_separators_are_understood(tmp_path: Path) -> None:
    fill(tmp_path, "sub/a.png")
    (tmp_path / "metadata.jsonl").write_text(lines({"file_name": r"sub\a.png", "text": "a"}))
    assert listed(open_source(tmp_path)) == {"sub/a.png": ("a",)}


def test_names_are_shown_on_one_line_and_stay_distinct() -> None:
    names = [b"a\nb", b"a\\nb", b"a\xff", b"a\\xff", "é🐶".encode(), b"a\x1b[31m"]
    shown = [printable(name) for name in names]
    assert len(set(shown)) == len(names)
    assert all(name.isprintable() for name in shown)
    assert printable("é🐶".encode()) == "é🐶"


def test_captions_collected_in_any_order_stay_with_their_rows() -> None:
    builder = CaptionsBuilder()
    for row, text in ((2, "c"), (0, "a"), (2, "d"), (0, "b"), (2, "c")):
        builder.add(row, [text])
    captions = builder.build(4)
    assert [captions.of(row) for row in range(4)] == [("a", "b"), ("",), ("c", "d"), ("",)]
    assert list(PackedStrings.of([b"", b"xy", b""])) == [b"", b"xy", b""]


MILLION = """
import sys, time
from latentdiff.data.sources import open_source
source = open_source(sys.argv[1])
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
print(len(source), peak, int(time.process_time()))
"""


@pytest.mark.slow
def test_a_million_rows_are_listed_in_less_than_a_gigabyte(tmp_path: Path) -> None:
    place = tmp_path / "million"
    place.mkdir()
    for k in range(1000):
        (place / f"{k:03}").mkdir()
    with (place / "metadata.jsonl").open("w") as table:
        for k in range(1_000_000):
            name = f"{k // 1000:03}/picture-number-{k:07}.png"
            if k % 60_000 == 0:  # a file has room for 65,000 names
                real = place / name
                real.write_bytes(PICTURE)
            else:
                os.link(real, place / name)
            caption = f"picture number {k}, of some length such as a caption has in the wild"
            table.write(json.dumps({"file_name": name, "text": caption}) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", MILLION, str(place)], capture_output=True, text=True, check=True
    )
    print(done.stdout)
    shutil.rmtree(place)
    count, megabytes, _ = map(int, done.stdout.split())
    assert count == 1_000_000
    assert megabytes < 1000
