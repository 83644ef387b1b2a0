"""Text files as editors and shells write them: their encodings, and where their lines end."""

import codecs
import io
import sys
from pathlib import Path

import pytest

from latentdiff.errors import UserError
from latentdiff.files.text_file import STANDARD_INPUT, lines_of, read_entries

INSIDE = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
"""What `str.splitlines` takes for the end of a line, and files do not."""


@pytest.mark.parametrize("mark", INSIDE, ids=lambda mark: f"U+{ord(mark):04X}")
def test_a_line_ends_where_files_end_lines_and_nowhere_else(mark: str) -> None:
    assert lines_of(f"a{mark}cat\r\na dog\n") == [f"a{mark}cat", "a dog"]


def test_empty_lines_count_and_the_last_line_needs_no_end() -> None:
    assert lines_of("a\n\nb") == ["a", "", "b"]
    assert lines_of("") == []


@pytest.mark.parametrize(
    "encoded",
    [
        "an öl\n# a remark\n\n a dog \n".encode(),
        "\ufeffan öl\r\n# a remark\r\n a dog".encode(),
        codecs.BOM_UTF16_LE + "an öl\r\n# a remark\r\na dog\r\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "an öl\na dog".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + "an öl\na dog".encode("utf-32-le"),
    ],
    ids=["utf-8", "utf-8 with a mark", "utf-16 le", "utf-16 be", "utf-32"],
)
@pytest.mark.parametrize("source", ["file", "standard input"])
def test_every_marked_encoding_is_read(
    encoded: bytes, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(encoded)
    if source == "standard input":
        path = STANDARD_INPUT
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded), "ascii"))
    assert read_entries(path, "prompts") == ["an öl", "a dog"]


def test_bytes_that_are_no_text_are_named_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("a f\xfcchsin".encode("latin-1"))
    with pytest.raises(UserError, match=r"list\.txt: it is not UTF-8 \(byte 3\); save it as UTF-8"):
        read_entries(tmp_path / "list.txt", "prompts")
