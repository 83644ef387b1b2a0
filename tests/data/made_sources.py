"""Small data sets of every layout, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from bad_input import encoded, scene

from latentdiff.data.records import Source

PICTURE = encoded(scene(), "PNG")


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICTURE)
    return folder


def listed(source: Source) -> dict[str, tuple[str, ...]]:
    return {source.id(row): source.captions(row) for row in range(len(source))}


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(path: Path, captions: list[str | None], **columns: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encoded(scene(shade=k), "PNG"), "path": None} for k in range(len(captions))]
    pq.write_table(pa.table({"image": images, "text": captions, **columns}), path)
    return path
