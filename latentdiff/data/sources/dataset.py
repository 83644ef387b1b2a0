"""Tables with the pictures inside: parquet files, and data sets of the hub, through `datasets`.

`datasets` keeps an Arrow copy in its own cache, memory-mapped: a row is read without reading its
neighbours. Pictures are handed out as they stand; nothing is decoded here.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import latentdiff.data.sources.text as text
from latentdiff.data.decode.regular import MAX_BYTES, file_state
from latentdiff.data.records import BadPicture
from latentdiff.data.sources.listed import Listed
from latentdiff.data.sources.metadata import CAPTION_COLUMNS
from latentdiff.data.sources.packed import Captions, CaptionsBuilder, Problems, printable
from latentdiff.data.sources.parquet_library import datasets_library, parquet_library
from latentdiff.errors import UserError, nearest
from latentdiff.files import hub

_TEXTS = ("string", "large_string", "string_view")
IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp")


class DatasetSource(Listed):
    """Rows of a `datasets.Dataset`; a Source. `rows`: the table's rows that can be used."""

    def __init__(
        self,
        name: str,
        table: Any,
        rows: Sequence[int],
        captions: Captions,
        problems: Problems,
        places: Places,
        kind: str,
    ) -> None:
        super().__init__(name, captions, problems, kind)
        self._table, self._rows, self._places = table, rows, places

    def id(self, row: int) -> str:
        """ "file.parquet#12", or "owner/name#12" for the hub's."""
        return self._places.id(int(self._rows[row]))

    def read(self, row: int) -> bytes:
        """The bytes in the row. Raises BadPicture "missing" or "too-large"."""
        value = next(iter(self._table[int(self._rows[row])].values()))
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise BadPicture("missing", "the row holds a path, not the picture's bytes")
        if len(data) > MAX_BYTES:
            raise BadPicture("too-large", f"{len(data):,} bytes; at most {MAX_BYTES:,} are read")
        return bytes(data)

    def stamp(self, row: int) -> str:
        return self._places.stamp(int(self._rows[row]))


class Places:
    """Which file a row of the whole table comes from, and that file's state."""

    def __init__(self, files: Sequence[Path], counts: Sequence[int]) -> None:
        self._names = short_names(files)
        self._files = [str(file.resolve()) for file in files]
        self._ends = list(itertools.accumulate(counts))

    def _place(self, row: int) -> tuple[int, int]:
        index = bisect.bisect_right(self._ends, row)
        return index, row - (self._ends[index - 1] if index else 0)

    def id(self, row: int) -> str:
        index, inner = self._place(row)
        return f"{self._names[index]}#{inner}"

    def stamp(self, row: int) -> str:
        index, inner = self._place(row)
        try:
            status = Path(self._files[index]).stat()
        except OSError:
            return f"{self._files[index]}|missing"
        return f"{self._files[index]}|{file_state(status)}|{inner}"


class HubPlaces(Places):
    """A data set of the hub: its fingerprint stands for its state."""

    def __init__(self, name: str, fingerprint: str) -> None:
        self._name, self._fingerprint = name, fingerprint

    def id(self, row: int) -> str:
        return f"{self._name}#{row}"

    def stamp(self, row: int) -> str:
        return f"{self._name}|{self._fingerprint}|{row}"


def short_names(files: Sequence[Path]) -> list[str]:
    """File names, with as many folders before them as it takes to tell them apart."""
    for parts in range(1, max(len(f.parts) for f in files) + 1):
        names = [printable("/".join(f.parts[-parts:])) for f in files]
        if len(set(names)) == len(names):
            break
    return names


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """`datasets` without its progress bars, as it was before afterwards."""
    datasets = datasets_library()
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        if not shown:
            datasets.enable_progress_bars()


def from_parquet(
    name: str,
    files: Sequence[Path],
    *,
    template: str,
    caption_column: str | None = None,
    image_column: str | None = None,
    need_captions: bool = True,
) -> DatasetSource:
    """Parquet files with image bytes. Raises UserError for a damaged file, for files of different
    columns, for a column that is not there."""
    pa, pq = parquet_library()
    counts, columns = [], None
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                counts.append(opened.metadata.num_rows)
                names = opened.schema_arrow.names
        except (pa.ArrowException, OSError) as error:
            words = str(error).strip().splitlines()[0][:160]
            raise UserError(f"{file} is not a readable parquet file ({words})") from error
        columns = columns or names
        if set(names) != set(columns):
            raise UserError(
                f"{file} has columns {', '.join(names)}, {files[0]} has {', '.join(columns)}; "
                "open files of different columns one by one"
            )
    with _quiet() as datasets:
        try:
            table = datasets.load_dataset(
                "parquet", data_files={"train": [_escaped(f) for f in files]}, split="train"
            )
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            cause = error.__cause__ or error
            raise UserError(f"{name} cannot be read: {_first_line(cause)}") from error
    if len(table) != sum(counts):
        raise UserError(f"{name}: {len(table):,} rows were read, the files hold {sum(counts):,}")
    places = Places(files, counts)
    return _build(name, table, places, template, caption_column, image_column, need_captions)


def _escaped(file: Path) -> str:
    # `datasets` takes file names as patterns; `where` was one already.
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(file.resolve()))


def from_hub(
    name: str,
    *,
    split: str | None,
    template: str,
    caption_column: str | None = None,
    image_column: str | None = None,
    need_captions: bool = True,
) -> DatasetSource:
    """A data set of the hub (or a copy in the local cache). Raises UserError, offline too."""
    split = split or "train"
    hub_name = hub.parse(name)
    if hub_name is None:
        raise UserError(f"{name!r} is no name of a data set on the hub; expected owner/name")
    fetched = hub.fetch(hub_name, _data_files, kind="dataset")
    with _quiet() as datasets:
        try:
            table = datasets.load_dataset(str(fetched.folder), split=split)
        except Exception as error:  # the client's errors, the network's, those of ill-made data
            raise UserError(_hub_words(name, split, error)) from error
    places = HubPlaces(name, str(getattr(table, "_fingerprint", "")))
    return _build(name, table, places, template, caption_column, image_column, need_captions)


def _data_files(names: Sequence[str]) -> list[str]:
    """Of a repository's files, those that hold or describe data: no code, weights or pickles."""
    held = (".parquet", ".arrow", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".tar", ".zip")
    pictures = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
    found = [n for n in names if n.lower().endswith((*held, *pictures))]
    if not found:
        raise UserError(f"it holds no data that is read here, of {len(names)} files")
    return [*found, *(n for n in names if n == "README.md")]


def _hub_words(name: str, split: str, error: Exception) -> str:
    words, kind = _first_line(error), type(error).__name__
    if "split" in words.lower():
        return f"{name}: {words}; name another by --split"
    return f"the data of {name}, fetched from the hub, cannot be read ({kind}: {words})"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _build(
    name: str,
    table: Any,
    places: Places,
    template: str,
    caption_column: str | None,
    image_column: str | None,
    need_captions: bool,
) -> DatasetSource:
    image = _image_column(name, table, image_column)
    column, is_label = _caption_column(name, table, caption_column)
    if column is None and need_captions:
        raise UserError(
            f"{name} has no column {', '.join(CAPTION_COLUMNS)} or label; its columns are "
            f"{', '.join(table.column_names)}. Name the captions' one by --caption-column"
        )
    if is_label:
        text.check_template(template)
    feature = table.features[image]
    import datasets

    if isinstance(feature, datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))
    problems, captions, rows = Problems(), CaptionsBuilder(), array("q")
    values = _values(table, column, template, is_label) if column else [None] * len(table)
    for row, (value, missing) in enumerate(zip(values, _nulls(table, image), strict=True)):
        if missing:
            problems.add(places.id(row), "missing", "the row holds no picture")
            continue
        found, findings = text.from_value(value)
        for finding in findings if column else ():
            fatal = finding.fatal and need_captions
            problems.add(places.id(row), finding.code, finding.reason, fatal=fatal)
        if not found and need_captions:
            continue
        captions.add(len(rows), found)
        rows.append(row)
    if not rows:
        raise UserError(f"{name} holds no row that can be used{problems.summary()}")
    kept: Sequence[int] = range(len(rows)) if len(rows) == len(table) else rows
    kind = f"column {image!r}, captions from {column!r}" if column else f"column {image!r}"
    return DatasetSource(
        name,
        table.select_columns([image]),
        kept,
        captions.build(len(rows)),
        problems,
        places,
        kind,
    )


def _image_column(name: str, table: Any, wanted: str | None) -> str:
    import datasets

    if wanted is not None:
        if wanted not in table.column_names:
            raise _no_column(name, "--image-column", wanted, table.column_names)
        return wanted
    fitting = [
        column
        for column, feature in table.features.items()
        if isinstance(feature, datasets.Image)
        or (isinstance(feature, dict) and "bytes" in feature)
        or getattr(feature, "dtype", "") in ("binary", "large_binary", "binary_view")
    ]
    named = [column for column in fitting if column.lower() in IMAGE_COLUMNS]
    if len(named or fitting) == 1:
        return (named or fitting)[0]
    found = f"several ({', '.join(fitting)})" if fitting else "none"
    raise UserError(
        f"{name}: one column with image bytes was expected, {found} found among "
        f"{', '.join(table.column_names)}; name it by --image-column"
    )


def _caption_column(name: str, table: Any, wanted: str | None) -> tuple[str | None, bool]:
    if wanted is not None:
        if wanted not in table.column_names:
            raise _no_column(name, "--caption-column", wanted, table.column_names)
        return wanted, hasattr(table.features[wanted], "int2str")
    for column in CAPTION_COLUMNS:
        if column in table.column_names:
            return column, False
    for column in ("label", "labels", "class"):
        feature = table.features.get(column)
        if hasattr(feature, "int2str") or getattr(feature, "dtype", "") in _TEXTS:
            return column, True
    return None, False


def _no_column(name: str, flag: str, wanted: str, columns: Sequence[str]) -> UserError:
    close = nearest(wanted, columns)
    hint = f"did you mean {flag} {close[0]}?" if close else f"its columns: {', '.join(columns)}"
    return UserError(f"{name} has no column {wanted!r}; {hint}")


def _values(table: Any, column: str, template: str, is_label: bool) -> Iterator[Any]:
    """The captions' column, a chunk at a time; labels become captions."""
    named: dict[Any, Any] = {}
    feature = table.features[column]
    for chunk in table.data.column(column).chunks:
        for value in chunk.to_pylist():
            if not is_label:
                yield value
                continue
            if value not in named:
                label = feature.int2str(value) if isinstance(value, int) and value >= 0 else value
                named[value] = text.from_label(label, template) if isinstance(label, str) else None
            yield named[value]


def _nulls(table: Any, image: str) -> Iterator[bool]:
    import pyarrow as pa
    import pyarrow.compute as pc

    for chunk in table.data.column(image).chunks:
        if isinstance(chunk, pa.ExtensionArray):
            chunk = chunk.storage
        missing = pc.is_null(chunk)
        if pa.types.is_struct(chunk.type) and chunk.type.get_field_index("bytes") >= 0:
            missing = pc.or_(missing, pc.is_null(pc.struct_field(chunk, "bytes")))
        yield from missing.to_pylist()
