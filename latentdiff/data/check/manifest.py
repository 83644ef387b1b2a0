"""A list of the usable pictures of a folder, in the form of `metadata.jsonl`.

The pictures stay where they are: the manifest names them, and opens as a source itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, runtime_checkable

from latentdiff import files
from latentdiff.data.check.checking import Findings
from latentdiff.errors import UserError


@runtime_checkable
class InFiles(Protocol):
    """A source whose rows are files."""

    def __len__(self) -> int: ...

    def path(self, row: int) -> Path: ...


def refuse_place(path: Path, source: object) -> None:
    """Raise UserError, before any work, when no manifest of this source can stand at `path`."""
    if not isinstance(source, InFiles):
        raise UserError(
            f"{getattr(source, 'name', source)} holds its pictures inside other files; a manifest "
            "names picture files, so --fix needs a folder of them"
        )
    if path.exists():
        raise UserError(f"{path} is there already, and nothing is written over; name another file")
    if path.suffix != ".jsonl":
        raise UserError(f"the manifest {path} must end in .jsonl to be opened as a data set")
    folder = _folder(source)
    if not folder.resolve().is_relative_to(path.parent.resolve()):
        raise UserError(
            f"{path} must stand in the pictures' folder or above it, because file names in a "
            f"manifest are relative to its own folder; try {folder / path.name}"
        )


def _folder(source: InFiles) -> Path:
    """The folder below which all pictures of a source stand: the one that the user gave."""
    given = Path(getattr(source, "name", "")).expanduser()
    return given if given.is_dir() else given.parent


def write_manifest(path: Path, findings: Findings) -> int:
    """Write what `findings.left_out` leaves, one line a picture; returns the number of lines.

    A picture that has copies is kept once, with the captions of all of them. Captions over the
    text encoder's limit are left out. Raises UserError when nothing would be left.
    """
    refuse_place(path, findings.source)
    source = findings.source
    assert isinstance(source, InFiles)
    left_out = findings.left_out
    more: dict[int, list[int]] = {}
    for group in findings.copies:
        kept = [row for row in group.tolist() if row not in left_out]
        if kept:
            more[kept[0]] = [row for row in group.tolist() if left_out.get(row) == "copy"]
    base = path.parent.resolve()
    lines = []
    for row in range(len(source)):
        if row in left_out:
            continue
        rows = [row, *more.get(row, [])]
        captions = list(dict.fromkeys(c for r in rows for c in findings.usable_captions(r)))
        name = source.path(row).relative_to(base).as_posix()
        text = captions[0] if len(captions) == 1 else captions
        lines.append(_line({"file_name": name, "text": text}))
    if not lines:
        raise UserError(f"no picture of {findings.source.name} is usable; {path} was not written")
    files.write_text(path, "\n".join(lines) + "\n")
    return len(lines)


def _line(entry: dict[str, object]) -> str:
    line = json.dumps(entry, ensure_ascii=False)
    if line.isprintable():
        return line
    # A name that is no Unicode, or odd white space: as escapes, json reads it back as it was.
    return json.dumps(entry)
