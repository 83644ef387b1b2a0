"""Tables that name pictures and their captions: metadata.jsonl, .csv (; and tab too), .parquet.

A row that cannot be read is a problem with its line, never the end of the table.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentdiff.data.sources.packed import Problems, printable
from latentdiff.data.sources.parquet_library import holds_text, parquet_library
from latentdiff.data.sources.text import encoding_of
from latentdiff.errors import UserError, nearest

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_COLUMN = "file_name"
CAPTION_COLUMNS = ("text", "caption", "prompt")
_LIKE_A_FILE = ("file", "filename", "image", "image_path", "path", "img", "picture")
_LIKE_A_CAPTION = ("description", "captions", "texts", "prompts", "alt", "tags", "title", "label")
_MAX_FIELD = 4 << 20  # characters of one field or line
_MAX_ARRAY = 256 << 20  # characters of a table that is one JSON list


@dataclass(frozen=True)
class Entry:
    """One row. where: "metadata.jsonl:12"; file, caption: what stands there, of any type."""

    where: str
    file: object
    caption: object


class Metadata:
    """One table, read row by row. `columns` says which columns the captions came from."""

    def __init__(
        self, path: Path, *, file_column: str | None = None, caption_column: str | None = None
    ) -> None:
        self.path = path
        self.file_column = file_column or FILE_COLUMN
        self.caption_column = caption_column
        self.columns: set[str] = set()
        self.seen: dict[str, None] = {}  # columns of the first rows, in their order

    def entries(self, problems: Problems) -> Iterator[Entry]:
        """Every row that can be read. Raises UserError when the table is not what it should be."""
        readers = {".jsonl": _json_lines, ".parquet": self._parquet}
        reader = readers.get(self.path.suffix.lower(), _csv)
        seen = self.seen
        found_file = rows = 0
        wanted = (self.caption_column,) if self.caption_column else CAPTION_COLUMNS
        try:
            for line, row in reader(self.path, self.file_column, problems):
                rows += 1
                if len(seen) < 100:
                    seen.update(dict.fromkeys(str(name) for name in row))
                found_file += self.file_column in row
                column = next((c for c in wanted if c in row), None)
                if column is not None:
                    self.columns.add(column)
                where = f"{self.path.name}:{line}"
                if self.file_column in row:
                    yield Entry(where, row[self.file_column], row[column] if column else None)
                elif found_file:
                    problems.add(where, "metadata-line", f"the row has no {self.file_column}")
        except OSError as error:
            raise UserError(f"cannot read {self.path} ({error.strerror or error})") from error
        if rows and not found_file:
            raise self._no_column(self.file_column, list(seen), "--image-column", _LIKE_A_FILE)
        if rows and not self.columns and self.caption_column:
            raise self._no_column(self.caption_column, list(seen), "--caption-column", ())

    def without_captions(self) -> str:
        """What to say when no row has a caption because no column is named for them; "" if one
        is."""
        others = [name for name in self.seen if name != self.file_column]
        if self.columns or not others:
            return ""
        guess = next((n for n in others if n.lower() in _LIKE_A_CAPTION), others[0])
        listed = ", ".join(printable(n) for n in others[:12])
        return (
            f" It has no column {', '.join(CAPTION_COLUMNS)}, but {listed}; "
            f"name the captions' one, as in --caption-column {printable(guess)}."
        )

    def _parquet(self, path: Path, file_column: str, problems: Problems) -> Rows:
        columns = {file_column, *CAPTION_COLUMNS, self.caption_column or FILE_COLUMN}
        return _parquet_rows(path, file_column, columns)

    def _no_column(
        self, column: str, seen: list[str], flag: str, usual: tuple[str, ...]
    ) -> UserError:
        guess = next((c for c in seen if c.lower() in usual), None)
        guess = guess or next(iter(nearest(column, seen)), None)
        words = f"{self.path} has no column {column!r}; its columns are {', '.join(seen[:12])}."
        if guess is None:
            return UserError(f"{words} Rename the right one to {column!r}, or name it by {flag}.")
        return UserError(f"{words} Did you mean {flag} {guess}?")


Rows = Iterator[tuple[int, Mapping[str, Any]]]


def _json_lines(path: Path, file_column: str, problems: Problems) -> Rows:
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    with path.open(encoding=encoding, errors="surrogateescape", newline="\n") as text:
        if text.read(1024).lstrip().startswith("["):
            text.seek(0)
            yield from _json_array(path, text.read(_MAX_ARRAY + 1), problems)
            return
        text.seek(0)
        for number, line in enumerate(iter(lambda: text.readline(_MAX_FIELD), ""), start=1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = "not JSON, perhaps cut off"
                if isinstance(error, json.JSONDecodeError):
                    reason += f" ({error.msg}, column {error.colno})"
                problems.add(where, "metadata-line", reason)
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                problems.add(where, "metadata-line", "a line must hold one JSON object")


def _json_array(path: Path, whole: str, problems: Problems) -> Rows:
    """One JSON list of objects, saved under the name of JSON lines; rows count from 1."""
    if len(whole) > _MAX_ARRAY:
        raise UserError(
            f"{path} is one JSON list of more than {_MAX_ARRAY:,} characters; write it as JSON "
            "lines, one object on each line"
        )
    try:
        rows = json.loads(whole)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deep"
        raise UserError(
            f"{path} begins like one JSON list, but cannot be read ({reason}); JSON lines were "
            "expected, one object on each line"
        ) from error
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield number, row
        else:
            problems.add(f"{path.name}:{number}", "metadata-line", "the entry is no JSON object")


def _csv(path: Path, file_column: str, problems: Problems) -> Rows:
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as text:
        first = text.readline(_MAX_FIELD)
        text.seek(0)
        delimiter = _delimiter(first, file_column)
        before = csv.field_size_limit(_MAX_FIELD)
        try:
            reader = csv.reader(text, delimiter=delimiter)
            header = [name.strip() for name in next(reader, [])]
            if file_column not in header and _looks_like_a_row(header):
                raise UserError(
                    f"{path} has no header: its first line is {first.strip()[:80]!r}. "
                    f'Put this line first: "{file_column},text"'
                )
            yield from _csv_rows(reader, header, path, problems)
        finally:
            csv.field_size_limit(before)


def _csv_rows(reader: Any, header: list[str], path: Path, problems: Problems) -> Rows:
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            problems.add(f"{path.name}:{reader.line_num}", "metadata-line", f"not CSV ({error})")
            continue
        if row is None:
            return
        if not row:
            continue
        if len(row) != len(header):
            reason = (
                f"{len(row)} fields where the header has {len(header)}; quote those with commas"
            )
            problems.add(f"{path.name}:{reader.line_num}", "metadata-line", reason)
            continue
        yield reader.line_num, dict(zip(header, row, strict=True))


def _delimiter(first: str, file_column: str) -> str:
    """The one that makes `file_name` a column; a comma when none does."""
    for delimiter in (",", ";", "\t"):
        names = next(csv.reader(io.StringIO(first), delimiter=delimiter), [])
        if file_column in [name.strip() for name in names]:
            return delimiter
    return "\t" if "\t" in first else ","


def _looks_like_a_row(header: list[str]) -> bool:
    """A header holds words; a first row of data holds a file name with its extension."""
    return any(("." in name and " " not in name) or "/" in name for name in header)


def _parquet_rows(path: Path, file_column: str, wanted: Collection[str]) -> Rows:
    """The rows, of the wanted columns and of those that hold text whatever its Arrow type."""
    pa, pq = parquet_library()
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        columns = [f.name for f in schema if f.name in wanted or holds_text(pa, f.type)]
        if file_column not in schema.names:
            yield 1, dict.fromkeys(schema.names)
            return
        number = 0
        for batch in file.iter_batches(batch_size=4096, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable parquet file ({_first(error)})") from error


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
