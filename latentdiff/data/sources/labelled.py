"""Pictures with a class each: a parquet file with a label column, or a folder of class folders.

This serves measuring (`latentdiff evaluate classes`); training reads captions, through sources.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from latentdiff.data.decode.decoding import EXTENSIONS, decode
from latentdiff.data.decode.regular import read_regular
from latentdiff.data.records import BadPicture, Problem
from latentdiff.data.sources.parquet_library import holds_bytes, holds_text, parquet_library
from latentdiff.errors import UserError, nearest

_CAPTIONS = ("text", "caption", "prompt")
_LABELS = ("label", "class", "category")


@dataclass
class Labelled:
    """Pictures by row with their classes.

    ids, labels: of each row. captions: a class's most frequent caption, where there are captions.
    problems: the rows that `pictures` passed over.
    """

    name: str
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    read: Callable[[int], bytes]
    captions: Mapping[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(sorted(set(self.labels)))

    def __len__(self) -> int:
        return len(self.labels)

    def pictures(self) -> Iterator[tuple[int, bytes, Image.Image]]:
        """(row, bytes, picture in sRGB) of all that decode; the others go into `problems`."""
        self.problems.clear()
        for row in range(len(self)):
            try:
                data = self.read(row)
                yield row, data, decode(data).image
            except BadPicture as error:
                self.problems.append(Problem(self.ids[row], error.code, str(error)))


def open_labelled(where: Path, *, label_column: str | None = None) -> Labelled:
    """Open a parquet file, a folder of parquet files, or a folder with a folder for each class.

    Raises UserError that says what was expected and what was found.
    """
    if where.is_file():
        return _from_parquet(where, [where], label_column)
    if not where.is_dir():
        raise UserError(f"{where} is not there; a parquet file or a folder was expected")
    shards = sorted(where.glob("*.parquet"))
    if shards:
        return _from_parquet(where, shards, label_column)
    return _from_folders(where)


def _from_folders(root: Path) -> Labelled:
    files: list[Path] = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        found = (p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
        files += sorted(p for p in found if not p.name.startswith("."))
    if not files:
        loose = sum(p.suffix.lower() in EXTENSIONS for p in root.iterdir())
        hint = f" ({loose} pictures lie in {root} itself, without a class)" if loose else ""
        raise UserError(
            f"no labelled pictures in {root}{hint}; expected a folder for each class, such as "
            f"{root}/cat/1.jpg, or a parquet file with a column 'label'"
        )
    names = [file.relative_to(root) for file in files]
    base = root.resolve()

    def read(row: int) -> bytes:
        if not files[row].resolve().is_relative_to(base):
            raise BadPicture("outside", f"a link that leads out of {root}")
        return read_regular(files[row])

    return Labelled(
        name=str(root),
        ids=tuple(map(str, names)),
        labels=tuple(name.parts[0] for name in names),
        read=read,
    )


def _from_parquet(where: Path, shards: Sequence[Path], label_column: str | None) -> Labelled:
    pa, pq = parquet_library()
    try:
        tables = [pq.read_table(shard) for shard in shards]
        table = pa.concat_tables(tables, promote_options="default")
    except (OSError, pa.ArrowInvalid) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{where} cannot be read as parquet: {problem}") from error
    columns: list[str] = table.column_names
    image = _image_column(where, table, pa)
    label = _label_column(where, columns, label_column)
    labels = _label_texts(where, table, label)
    encoded = table.column(image)
    ids = tuple(
        f"{shard.name}#{row}"
        for shard, part in zip(shards, tables, strict=True)
        for row in range(part.num_rows)
    )

    def read(row: int) -> bytes:
        value = encoded[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise BadPicture("missing", "the row holds no picture bytes")
        return data

    captions: dict[str, str] = {}
    column = next((name for name in _CAPTIONS if name in columns), None)
    if column is not None and holds_text(pa, table.schema.field(column).type):
        counts = Counter(zip(labels, table.column(column).to_pylist(), strict=True))
        for (name, caption), _ in sorted(counts.items(), key=lambda x: (-x[1], str(x[0]))):
            if caption:
                captions.setdefault(name, caption)
    return Labelled(name=str(where), ids=ids, labels=labels, read=read, captions=captions)


def _image_column(where: Path, table: Any, pa: Any) -> str:
    for field_ in table.schema:
        kind = field_.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return str(field_.name)
        if holds_bytes(pa, kind):
            return str(field_.name)
    raise UserError(
        f"{where} has no column with picture bytes; its columns are {', '.join(table.column_names)}"
    )


def _label_column(where: Path, columns: Sequence[str], wanted: str | None) -> str:
    for name in _LABELS if wanted is None else (wanted,):
        if name in columns:
            return name
    missing = wanted or _LABELS[0]
    close = nearest(missing, columns)
    hint = f"; did you mean --label-column {close[0]}?" if close else ""
    raise UserError(
        f"{where} has no column {missing!r}; its columns are {', '.join(columns)}{hint}"
    )


def _label_texts(where: Path, table: Any, column: str) -> tuple[str, ...]:
    """Labels as text; numbers become the names that `datasets` keeps beside them."""
    values = table.column(column).to_pylist()
    names: list[str] = []
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    if metadata:
        try:
            features = json.loads(metadata)["info"]["features"]
            names = list(features[column].get("names", []))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            names = []
    texts = []
    for row, value in enumerate(values):
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
            texts.append(str(names[value]))
        elif isinstance(value, (str, int)) and str(value).strip():
            texts.append(str(value).strip())
        else:
            raise UserError(f"{where}: row {row} has the label {value!r}; a text was expected")
    return tuple(texts)


def fingerprint(rows: Iterator[tuple[str, bytes]]) -> str:
    """32 hexadecimal digits over (label, picture bytes) in order."""
    digest = hashlib.sha256()
    for label, data in rows:
        name = label.encode("utf-8")
        digest.update(b"%d:" % len(name) + name + hashlib.sha256(data).digest())
    return digest.hexdigest()[:32]
