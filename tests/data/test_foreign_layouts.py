"""Data sets as other programs write them: each picture is read with its caption, or named."""

import json
import struct
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_archives import sample, tar_bytes
from made_sources import PICTURE, fill, listed

from latentdiff.data.records import BadPicture
from latentdiff.data.sources import open_source
from latentdiff.data.sources.folders.png_prompts import prompt_of
from latentdiff.errors import UserError

TEXTS = {
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "list": pa.list_(pa.string()),
    "large_list": pa.large_list(pa.large_string()),
}
BYTES = {"binary": pa.binary(), "large_binary": pa.large_binary(), "view": pa.binary_view()}


def typed(kind: pa.DataType, value: str) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array([value]).dictionary_encode()
    listed_type = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return pa.array([[value] if listed_type else value], kind)


@pytest.mark.parametrize("kind", TEXTS)
def test_a_named_caption_column_is_read_whatever_its_arrow_type(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, "a.png")
    table = pa.table({"file_name": ["a.png"], "words": typed(TEXTS[kind], "a cat")})
    pq.write_table(table, tmp_path / "metadata.parquet")
    assert listed(open_source(tmp_path, caption_column="words")) == {"a.png": ("a cat",)}
    with pytest.raises(UserError, match="as in --caption-column words"):
        open_source(tmp_path)


@pytest.mark.parametrize("picture", BYTES)
@pytest.mark.parametrize("kind", TEXTS)
def test_pictures_and_captions_of_every_arrow_type_are_found(
    tmp_path: Path, kind: str, picture: str
) -> None:
    image = pa.array([PICTURE], BYTES[picture])
    pq.write_table(
        pa.table({"image": image, "text": typed(TEXTS[kind], "a cat")}), tmp_path / "x.parquet"
    )
    source = open_source(tmp_path / "x.parquet")
    assert source.captions(0) == ("a cat",)
    assert source.read(0) == PICTURE


@pytest.mark.parametrize("kind", ["large_string", "string_view"])
def test_labels_of_every_string_type_become_captions(tmp_path: Path, kind: str) -> None:
    table = pa.table({"image": [PICTURE], "label": typed(TEXTS[kind], "owl")})
    pq.write_table(table, tmp_path / "x.parquet")
    assert open_source(tmp_path / "x.parquet").captions(0) == ("a photo of an owl",)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_under_the_name_of_json_lines_is_read(
    tmp_path: Path, indent: int | None
) -> None:
    fill(tmp_path, "a.png", "b.png")
    rows = [{"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": "b"}, 3]
    (tmp_path / "metadata.jsonl").write_text("\n" + json.dumps(rows, indent=indent))
    source = open_source(tmp_path)
    assert listed(source) == {"a.png": ("a",), "b.png": ("b",)}
    assert [(p.where, p.code) for p in source.problems] == [("metadata.jsonl:3", "metadata-line")]


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"file_name": "a.png"'])
def test_a_damaged_json_list_is_one_line(tmp_path: Path, text: str) -> None:
    fill(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(UserError, match="begins like one JSON list, but cannot be read") as refused:
        open_source(tmp_path)
    assert "\n" not in str(refused.value)


def test_caption_files_are_found_by_either_ending_and_in_any_case(tmp_path: Path) -> None:
    fill(tmp_path, "a.JPG", "b.jpeg", "c.v2.png", "D.png", "e.png", "f.png", "F.png")
    for name, text in {
        "a.txt": "a",
        "b.TXT": "b",
        "c.v2.caption": "c",
        "d.txt": "d",
        "e.txt": "e",
        "e.caption": "not read",
        "f.txt": "small f",
    }.items():
        (tmp_path / name).write_text(text)
    source = open_source(tmp_path)
    assert listed(source) == {
        "a.JPG": ("a",),
        "b.jpeg": ("b",),
        "c.v2.png": ("c",),
        "D.png": ("d",),
        "e.png": ("e",),
        "f.png": ("small f",),
    }
    assert {(p.where, p.code, p.fatal) for p in source.problems} == {
        ("F.png", "caption-missing", True),
        ("e.caption", "caption-twice", False),
    }


def test_a_table_finds_files_whose_names_differ_by_case_only(tmp_path: Path) -> None:
    fill(tmp_path, "Sub/a.PNG", "b.png", "B.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\nSub/a.png,a\nb.PNG,b\n")
    source = open_source(tmp_path)
    assert listed(source) == {"Sub/a.PNG": ("a",)}
    assert Counter((p.code, p.fatal) for p in source.problems) == {
        ("names-by-case", False): 1,
        ("missing", True): 1,  # b.png or B.png?
        ("caption-missing", True): 2,
    }


def names(source: object) -> set[str]:
    return {source.id(row).partition("#")[2] for row in range(len(source))}  # type: ignore


def test_dots_in_the_names_of_a_tar_never_lose_a_picture(tmp_path: Path) -> None:
    members = [m for k in range(3) for m in sample(f"my.photo.{k:04}", f"picture {k}")]
    for order in (members, members[::-1], members[1::2] + members[::2]):
        (tmp_path / "x.tar").write_bytes(tar_bytes(order))
        source = open_source(tmp_path / "x.tar")
        assert not source.problems
        assert {i.partition("#")[2]: c for i, c in listed(source).items()} == {
            f"my.photo.{k:04}": (f"picture {k}",) for k in range(3)
        }


def test_several_pictures_of_one_webdataset_sample_stay_one_and_are_named(tmp_path: Path) -> None:
    (left, _), (right, words) = sample("1.left"), sample("1.right")
    words[0].name = "1.txt"
    (tmp_path / "x.tar").write_bytes(tar_bytes([left, right, words]))
    source = open_source(tmp_path / "x.tar")
    assert names(source) == {"1"}
    assert [(p.where, p.code, p.fatal) for p in source.problems] == [
        ("x.tar#1.right.png", "member-twice", True)
    ]
    (tmp_path / "y.tar").write_bytes(tar_bytes([left, right]))
    assert names(open_source(tmp_path / "y.tar", need_captions=False)) == {"1.left", "1.right"}


def test_a_plain_name_and_a_dotted_one_are_two_samples(tmp_path: Path) -> None:
    for members in (sample("a") + sample("a.b"), sample("a.b") + sample("a")):
        (tmp_path / "x.tar").write_bytes(tar_bytes(members))
        source = open_source(tmp_path / "x.tar")
        assert names(source) == {"a", "a.b"}
        assert not source.problems


def test_kohyas_folders_give_words_and_weights(tmp_path: Path) -> None:
    fill(tmp_path, "img/10_sks dog/a.png", "img/10_sks dog/b.png", "img/5_a cat/c.png")
    (tmp_path / "img/10_sks dog/b.caption").write_text("sks dog on a lawn")
    source = open_source(tmp_path / "img")
    assert listed(source) == {
        "10_sks dog/a.png": ("sks dog",),
        "10_sks dog/b.png": ("sks dog on a lawn",),
        "5_a cat/c.png": ("a cat",),
    }
    assert source.repeats == (2, 2, 1)  # type: ignore[attr-defined]
    assert source.summary.endswith("(kohya folders: 10_sks dog, 5_a cat)")


def test_regularisation_beside_kohyas_pictures_is_a_data_set_of_its_own(tmp_path: Path) -> None:
    fill(tmp_path, "img/10_sks dog/a.png", "reg/1_dog/d.png")
    with pytest.raises(UserError, match=rf"by {tmp_path}/img, .*--prior-data {tmp_path}/reg"):
        open_source(tmp_path)
    assert listed(open_source(tmp_path / "reg")) == {"1_dog/d.png": ("dog",)}
    with pytest.raises(UserError, match=f"open the one above it: {tmp_path}/img"):
        open_source(tmp_path / "img/10_sks dog")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG file with one more chunk after its header."""
    return PICTURE[:33] + chunk(kind, body) + PICTURE[33:]


NODES = {
    "3": {"class_type": "KSampler", "inputs": {"positive": ["8", 0], "negative": ["7", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry"}},
    "8": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 1}},
}
A1111 = "a cat,\non a mat\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a"


@pytest.mark.parametrize(
    ("kind", "body", "prompt"),
    [
        (b"tEXt", b"parameters\0" + A1111.encode(), "a cat, on a mat"),
        (b"zTXt", b"parameters\0\0" + zlib.compress(A1111.encode()), "a cat, on a mat"),
        (b"iTXt", b"parameters\0\0\0\0\0caf\xc3\xa9\nSteps: 4, Size: 8", "café"),
        (b"tEXt", b"prompt\0" + json.dumps(NODES).encode(), "a cat"),
        (b"tEXt", b'latentdiff\0{"prompt": "a fox"}', "a fox"),
        (b"tEXt", b"Description\0a dog", "a dog"),
    ],
)
def test_the_prompt_in_a_png_becomes_its_caption(
    tmp_path: Path, kind: bytes, body: bytes, prompt: str
) -> None:
    (tmp_path / "a.png").write_bytes(with_chunk(kind, body))
    (tmp_path / "b.png").write_bytes(PICTURE)
    source = open_source(tmp_path, captions_from="png")
    assert listed(source) == {"a.png": (prompt,)}
    assert [(p.where, p.code) for p in source.problems] == [("b.png", "caption-missing")]


@pytest.mark.parametrize(
    "body",
    [
        b"prompt\0" + b"[" * 100_000,
        b'prompt\0{"1": {"inputs": {"positive": ["1", 0]}}}',
        b"parameters\0Steps: 20, Size: 8",
        b"prompt",
    ],
)
def test_a_png_without_a_usable_prompt_is_named(body: bytes) -> None:
    for data in (with_chunk(b"tEXt", body), PICTURE[:40], b"GIF89a"):
        with pytest.raises(BadPicture, match="PNG") as refused:
            prompt_of(data)
        assert refused.value.code == "caption-missing"
