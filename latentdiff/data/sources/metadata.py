"""Tables that name pictures and their captions: metadata.jsonl, .csv (; and tab too), .parquet.

A row that cannot be read is a problem with its line, never the end of the table.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentdiff.data.sources.packed import Problems
from latentdiff.data.sources.text import encoding_of
from latentdiff.errors import UserError, nearest

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_COLUMN = "file_name"
CAPTION_COLUMNS = ("text", "caption", "prompt")
_LIKE_A_FILE = ("file", "filename", "image", "image_path", "path", "img", "picture")
_MAX_FIELD = 4 << 20  # characters of one field or line


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

    def entries(self, problems: Problems) -> Iterator[Entry]:
        """Every row that can be read. Raises UserError when the table is not what it should be."""
        readers = {".jsonl": _json_lines, ".parquet": _parquet}
        reader = readers.get(self.path.suffix.lower(), _csv)
        seen: dict[str, None] = {}
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


def _parquet(path: Path, file_column: str, problems: Problems) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        wanted = {file_column, *CAPTION_COLUMNS}
        names = file.schema_arrow.names
        columns = [n for n in names if n in wanted or pa.types.is_string(_type(file, n))]
        if file_column not in names:
            yield 1, dict.fromkeys(names)
            return
        number = 0
        for batch in file.iter_batches(batch_size=4096, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable parquet file ({_first(error)})") from error


def _type(file: Any, name: str) -> Any:
    return file.schema_arrow.field(name).type


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
