"""The manifest of what is usable opens as a data set, and nothing is written over."""

import json
import os

import pytest
from few_pictures import FewPictures, encoded, scene

from latentdiff.data.captions import lengths
from latentdiff.data.check.checking import check
from latentdiff.data.check.manifest import refuse_place, write_manifest
from latentdiff.data.sources import open_source
from latentdiff.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A data set with a bad picture, a copy, a picture with several captions, odd names."""
    root = tmp_path / "set"
    (root / "sub").mkdir(parents=True)
    table = []
    for name, picture, text in (
        ("sub/a.png", scene(0), ["first", "second"]),
        ("b \N{CAT FACE}.png", scene(1), 'a "quoted" cat'),
        ("copy.bmp", scene(0), "third"),
        ("new\nline.png", scene(2), "two lines"),
    ):
        kind = "BMP" if name.endswith("bmp") else "PNG"
        (root / name).write_bytes(encoded(picture, kind))
        table.append({"file_name": name, "text": text})
    (root / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    table.append({"file_name": "bad.png", "text": "bad"})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, table)))
    return root


def findings(root, workers=1):
    return check(open_source(root), workers=workers)


def test_the_manifest_opens_as_the_usable_pictures_with_all_their_captions(folder):
    path = folder / "usable.jsonl"
    assert write_manifest(path, findings(folder)) == 3
    opened = open_source(path)
    found = {opened.id(row): opened.captions(row) for row in range(len(opened))}
    assert found == {
        "sub/a.png": ("first", "second", "third"),
        "b \N{CAT FACE}.png": ('a "quoted" cat',),
        "new\\nline.png": ("two lines",),
    }
    assert findings(path).clean
    again = open_source(folder)
    assert opened.read(0) == again.read(0)


def test_a_name_that_is_no_unicode_survives(tmp_path):
    name = b"odd-\xff.png"
    try:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(encoded(scene(0)))
    except OSError:
        pytest.skip("this file system takes no such names")
    (tmp_path / os.fsdecode(name.replace(b".png", b".txt"))).write_text("odd")
    path = tmp_path / "usable.jsonl"
    write_manifest(path, findings(tmp_path))
    opened = open_source(path)
    assert (len(opened), opened.captions(0)) == (1, ("odd",))
    assert opened.read(0) == encoded(scene(0))


def test_it_may_stand_above_the_pictures_but_nowhere_else(folder):
    assert write_manifest(folder.parent / "usable.jsonl", findings(folder)) == 3
    assert open_source(folder.parent / "usable.jsonl").id(0) == "set/sub/a.png"
    for place in (folder / "sub" / "usable.jsonl", folder.parent / "other" / "usable.jsonl"):
        with pytest.raises(UserError, match="in the pictures' folder or above it"):
            refuse_place(place, open_source(folder))


def test_nothing_is_written_over(folder):
    before = (folder / "metadata.jsonl").read_bytes()
    with pytest.raises(UserError, match="nothing is written over"):
        write_manifest(folder / "metadata.jsonl", findings(folder))
    assert (folder / "metadata.jsonl").read_bytes() == before


def test_pictures_inside_other_files_and_other_endings_are_refused(folder):
    with pytest.raises(UserError, match="--fix needs a folder"):
        refuse_place(folder / "usable.jsonl", FewPictures([]))
    with pytest.raises(UserError, match=r"must end in \.jsonl"):
        refuse_place(folder / "usable.csv", open_source(folder))


def test_no_manifest_is_written_when_nothing_is_usable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match="was not written"):
        write_manifest(tmp_path / "usable.jsonl", findings(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.txt"]


def test_captions_that_training_would_refuse_are_left_out(tmp_path):
    for k, captions in enumerate((["short", "much too long"], ["much too long"], ["fine"])):
        (tmp_path / f"{k}.png").write_bytes(encoded(scene(k)))
        (tmp_path / f"{k}.txt").write_text("\n".join(captions))

    def count(texts):
        return [len(text.split()) for text in texts]

    found = check(
        open_source(tmp_path), workers=1, count_tokens=lambda source: lengths(source, count, 2)
    )
    assert found.left_out == {1: "caption-long"}
    assert not found.clean
    manifest = tmp_path / "usable.jsonl"
    assert write_manifest(manifest, found) == 2
    opened = open_source(manifest)
    assert [opened.captions(row) for row in range(2)] == [("short",), ("fine",)]
    lengths(opened, count, 2).refuse_long()
