"""Labelled pictures from parquet files and class folders."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from latentdiff.data.sources.labelled import fingerprint, open_labelled
from latentdiff.errors import UserError


def encoded(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    path: Path, columns: dict[str, list[object]], metadata: dict[str, str] | None = None
) -> Path:
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, path)
    return path


def images(count: int) -> list[object]:
    return [{"bytes": encoded(k), "path": None} for k in range(count)]


def test_a_parquet_file_with_labels_and_captions(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {
        "image": images(4),
        "text": ["an ant", "a bee", "a big ant", "an ant"],
        "label": ["ant", "bee", "ant", "ant"],
    }
    found = open_labelled(write(tmp_path / "x.parquet", columns))
    assert found.classes == ("ant", "bee") and found.labels == ("ant", "bee", "ant", "ant")
    assert found.captions == {"ant": "an ant", "bee": "a bee"}
    pictures = list(found.pictures())
    assert [p.getpixel((0, 0)) for _, _, p in pictures] == [(k, 0, 0) for k in range(4)]
    assert found.ids[3] == "x.parquet#3"


def test_label_numbers_become_their_names(tmp_path: Path) -> None:
    features = {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    file = write(tmp_path / "x.parquet", {"image": images(2), "label": [1, 0]}, metadata)
    assert open_labelled(file).labels == ("bee", "ant")
    plain = write(tmp_path / "y.parquet", {"image": images(2), "label": [1, 0]})
    assert open_labelled(plain).labels == ("1", "0")


def test_a_folder_of_shards_is_one_source(tmp_path: Path) -> None:
    for k in range(2):
        write(tmp_path / f"{k}.parquet", {"image": images(2), "label": ["a", "b"]})
    found = open_labelled(tmp_path)
    assert len(found) == 4 and found.ids[2] == "1.parquet#0"


def test_class_folders(tmp_path: Path) -> None:
    for name in ("bee/1.png", "ant/deep/2.png", "ant/1.png", "ant/note.md", ".hidden/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(7))
    found = open_labelled(tmp_path)
    assert found.ids == ("ant/1.png", "ant/deep/2.png", "bee/1.png")
    assert found.labels == ("ant", "ant", "bee") and found.captions == {}


def test_bad_pictures_are_passed_over_and_named(tmp_path: Path) -> None:
    (tmp_path / "data" / "ant").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(encoded(1))
    (tmp_path / "data" / "ant" / "1.png").write_bytes(encoded(1))
    (tmp_path / "data" / "ant" / "2.png").write_bytes(encoded(2)[:30])
    (tmp_path / "data" / "ant" / "3.png").symlink_to(tmp_path / "outside.png")
    found = open_labelled(tmp_path / "data")
    assert [row for row, _, _ in found.pictures()] == [0]
    assert [p.where for p in found.problems] == ["ant/2.png", "ant/3.png"]
    assert found.problems[1].code == "outside"
    rows: dict[str, list[object]] = {"image": [{"bytes": None, "path": "a"}, *images(1)]}
    file = write(tmp_path / "x.parquet", {**rows, "label": ["a", "a"]})
    assert [row for row, _, _ in open_labelled(file).pictures()] == [1]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": images(1), "labels": ["a"]}, r"no column 'label'; its columns are .* labels\?"),
        ({"file": ["a.png"], "label": ["a"]}, "no column with picture bytes"),
        ({"image": images(1), "label": [None]}, "row 0 has the label None"),
    ],
)
def test_a_wrong_layout_says_what_was_expected(
    tmp_path: Path, columns: dict[str, list[object]], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        open_labelled(write(tmp_path / "x.parquet", columns))


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        open_labelled(tmp_path / "x.parquet")
    with pytest.raises(UserError, match="is not there"):
        open_labelled(tmp_path / "missing")
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "1.png").write_bytes(encoded(1))
    with pytest.raises(UserError, match=r"1 pictures lie in .* without a class"):
        open_labelled(tmp_path / "loose")


def test_the_fingerprint_sees_labels_bytes_and_order() -> None:
    rows = [("a", b"1"), ("b", b"2")]
    same = fingerprint(iter(rows))
    assert same == fingerprint(iter(rows)) and len(same) == 32
    for other in ([("b", b"1"), ("b", b"2")], [("a", b"1"), ("b", b"3")], rows[::-1], rows[:1]):
        assert fingerprint(iter(other)) != same
