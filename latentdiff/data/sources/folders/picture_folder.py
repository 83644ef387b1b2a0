"""Folders of pictures: with a metadata table, caption files, or a folder for each class.

The pictures' order is the table's, or that of their paths' bytes: never the file system's.
"""

# ruff: noqa: PTH116, PTH118, PTH120
# File names are bytes here: any name must survive, and pathlib takes text.

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path

import latentdiff.data.sources.text as text
from latentdiff.data.decode.regular import file_state, read_regular
from latentdiff.data.records import BadPicture
from latentdiff.data.sources.folders.kohya import folder_words
from latentdiff.data.sources.folders.named_files import NamedFiles
from latentdiff.data.sources.folders.png_prompts import prompt_of
from latentdiff.data.sources.folders.sidecars import Sidecars
from latentdiff.data.sources.listed import Listed, lowest_terms
from latentdiff.data.sources.listing import Listing, inside
from latentdiff.data.sources.metadata import Metadata
from latentdiff.data.sources.packed import (
    Captions,
    CaptionsBuilder,
    PackedStrings,
    Problems,
    printable,
)
from latentdiff.errors import UserError


class FolderSource(Listed):
    """Pictures in files below one root; a Source. `paths` are relative to the root, in bytes."""

    def __init__(
        self,
        name: str,
        root: bytes,
        paths: PackedStrings,
        captions: Captions,
        problems: Problems,
        kind: str,
    ) -> None:
        super().__init__(name, captions, problems, kind)
        self._root, self._paths = os.path.realpath(root), paths

    def id(self, row: int) -> str:
        """The path below the root, printable."""
        return printable(self._paths[row])

    def path(self, row: int) -> Path:
        """The picture's file."""
        return Path(os.fsdecode(os.path.join(self._root, self._paths[row])))

    def read(self, row: int) -> bytes:
        """The file's bytes. Raises BadPicture, also when the file has left the root since."""
        path = os.path.join(self._root, self._paths[row])
        data = read_regular(path)
        if not inside(path, self._root):
            raise BadPicture("path-out", "a link out of the data set is not followed")
        return data

    def stamp(self, row: int) -> str:
        path = os.path.join(self._root, self._paths[row])
        try:
            status = os.stat(path)
        except OSError:
            return f"{printable(path)}|missing"
        return f"{printable(path)}|{file_state(status)}"


def _report(
    problems: Problems, where: str, findings: Sequence[text.Finding], need_captions: bool
) -> None:
    for finding in findings:
        fatal = finding.fatal and need_captions
        problems.add(where, finding.code, finding.reason, fatal=fatal)


def from_metadata(
    name: str,
    listing: Listing,
    table: Metadata,
    *,
    need_captions: bool = True,
    captions_from: str | None = None,
) -> FolderSource:
    """The pictures that a table names, in its order. Raises UserError when none is usable, or when
    sidecars say something else and `captions_from` does not settle it."""
    problems = listing.problems
    rows: dict[bytes, int] = {}
    named: set[bytes] = set()  # by rows that cannot be used
    captions = CaptionsBuilder()
    total, first_missing = 0, ""
    files = NamedFiles(os.path.dirname(os.path.realpath(os.fsencode(table.path))))
    for entry in table.entries(problems):
        total += 1
        try:
            path = files.find(entry.file)
        except BadPicture as problem:
            problems.add(entry.where, problem.code, f"{_shown(entry.file)}: {problem}")
            first_missing = first_missing or _shown(entry.file)
            continue
        where = f"{entry.where} {printable(path)}"
        if path in files.by_case:
            reason = f"{_shown(entry.file)} was taken for it: the names differ by case only"
            problems.add(where, "names-by-case", reason, fatal=False)
        found, findings = text.from_value(entry.caption)
        _report(problems, where, findings, need_captions)
        if not found and need_captions:
            named.add(path)
            continue
        if path in rows:
            reason = "named twice: its captions were put together"
            problems.add(where, "file-name-twice", reason, fatal=False)
        captions.add(rows.setdefault(path, len(rows)), found)
    if not rows:
        raise _nothing(table, total, first_missing, listing, problems)
    packed = PackedStrings.of(list(rows))
    built = captions.build(len(rows))
    inner = os.path.relpath(files.base, listing.root)
    prefix = b"" if inner == b"." else inner + b"/"
    if captions_from is None:
        _refuse_disagreement(name, listing, table.path.name, prefix, packed, built)
    for path in listing.pictures:
        within = path[len(prefix) :]
        if path.startswith(prefix) and within not in rows and within not in named:
            reason = f"no usable row of {table.path.name} names it"
            problems.add(printable(path), "caption-missing", reason)
    columns = " and ".join(sorted(table.columns)) or "no captions"
    kind = f"{table.path.name}, {columns}"
    return FolderSource(name, files.base, packed, built, problems, kind)


def _shown(file: object) -> str:
    return printable(file)[:200] if isinstance(file, str) else repr(file)[:80]


def _nothing(
    table: Metadata, total: int, first: str, listing: Listing, problems: Problems
) -> UserError:
    if not total:
        return UserError(f"{table.path} names no pictures{problems.summary()}")
    guess = ""
    by_name = {posixpath.basename(p): p for p in listing.pictures}
    near = by_name.get(posixpath.basename(os.fsencode(first.replace("\\", "/"))))
    if near is not None:
        guess = f" {printable(near)} has that name: file names are relative to the table's folder."
    first = f" (first: {first!r})" if first else ""
    return UserError(
        f"none of the {total:,} rows of {table.path} can be used{first}"
        f"{problems.summary()}.{guess or table.without_captions()}"
    )


def _refuse_disagreement(
    name: str,
    listing: Listing,
    table: str,
    prefix: bytes,
    paths: PackedStrings,
    captions: Captions,
) -> None:
    if not listing.texts:
        return
    differ, example = 0, ""
    sidecars = Sidecars(listing)
    for row, path in enumerate(paths):
        if sidecars.of(prefix + path) is None:
            continue
        said, _ = sidecars.read(prefix + path)
        if said and tuple(dict.fromkeys(said)) != captions.of(row):
            differ += 1
            example = example or (
                f"{printable(path)}: {captions.of(row)[0][:60]!r} against {said[0][:60]!r}"
            )
    if differ:
        raise UserError(
            f"{name}: {table} and .txt sidecars disagree for {differ:,} pictures ({example}). "
            "Say which wins: --captions-from metadata or --captions-from sidecars"
        )


def from_sidecars(name: str, listing: Listing, *, need_captions: bool = True) -> FolderSource:
    """Pictures with a caption file of the same name beside them; each line is a caption."""
    sidecars = Sidecars(listing)
    source = _captioned(name, listing, sidecars.read, "caption files", need_captions=need_captions)
    sidecars.report_unused(listing.problems)
    return source


def from_png(name: str, listing: Listing, *, need_captions: bool = True) -> FolderSource:
    """PNG pictures that hold the prompt they were made from; it becomes the caption."""

    def read(picture: bytes) -> tuple[list[str], list[text.Finding]]:
        try:
            prompt = prompt_of(read_regular(os.path.join(listing.root, picture)))
        except BadPicture as problem:
            return [], [text.Finding(problem.code, str(problem), True)]
        return text.from_value(prompt)

    return _captioned(name, listing, read, "prompts in PNG files", need_captions=need_captions)


Captioned = Callable[[bytes], tuple[list[str], list[text.Finding]]]


def _captioned(
    name: str, listing: Listing, read: Captioned, kind: str, *, need_captions: bool
) -> FolderSource:
    """The pictures of a listing with the captions that `read` finds for each."""
    paths: list[bytes] = []
    captions = CaptionsBuilder()
    for path in listing.pictures:
        found, findings = read(path)
        _report(listing.problems, printable(path), findings, need_captions)
        if not found and need_captions:
            continue
        captions.add(len(paths), found)
        paths.append(path)
    if not paths:
        first = next((p.reason for p in listing.problems if p.code == "caption-missing"), "")
        raise UserError(
            f"{name}: no picture with a usable caption ({kind}){listing.problems.summary()}"
            f"{f' ({first})' if first else ''}"
        )
    built = captions.build(len(paths))
    kind = kind if built.count else "no captions"
    return FolderSource(name, listing.root, PackedStrings.of(paths), built, listing.problems, kind)


def from_kohya(name: str, listing: Listing) -> FolderSource:
    """Pictures in folders such as `10_sks dog`: captions from files beside them, else the folder's
    words; the numbers weigh the folders against each other. See the module kohya."""
    sidecars = Sidecars(listing)
    repeats: list[int] = []
    paths: list[bytes] = []
    captions = CaptionsBuilder()
    for path in listing.pictures:
        words = folder_words(printable(path.split(b"/", 1)[0]))
        assert words is not None
        if words[0] == 0:
            reason = "its folder asks for 0 repeats"
            listing.problems.add(printable(path), "repeats", reason)
            continue
        if sidecars.of(path) is None:
            found, findings = text.from_value(words[1])
        else:
            found, findings = sidecars.read(path)
        _report(listing.problems, printable(path), findings, True)
        if found:
            captions.add(len(paths), found)
            repeats.append(words[0])
            paths.append(path)
    sidecars.report_unused(listing.problems)
    if not paths:
        raise UserError(f"{name}: no picture with a usable caption{listing.problems.summary()}")
    folders = sorted({printable(path.split(b"/", 1)[0]) for path in paths})
    shown = ", ".join(folders[:4]) + (", …" if len(folders) > 4 else "")
    packed = PackedStrings.of(paths)
    kind = f"kohya folders: {shown}"
    source = FolderSource(
        name, listing.root, packed, captions.build(len(paths)), listing.problems, kind
    )
    source.repeats = lowest_terms(repeats)
    return source


def from_classes(name: str, listing: Listing, *, template: str) -> FolderSource:
    """Pictures in one folder for each class; the first folder below the root is the class."""
    text.check_template(template)
    captions = CaptionsBuilder()
    paths: list[bytes] = []
    labels: dict[bytes, list[str]] = {}
    for path in listing.pictures:
        label, slash, _ = path.partition(b"/")
        if not slash:
            reason = "it stands in no class's folder"
            listing.problems.add(printable(path), "caption-missing", reason)
            continue
        if label not in labels:
            labels[label], _ = text.from_value(text.from_label(printable(label), template))
        captions.add(len(paths), labels[label])
        paths.append(path)
    example = min(labels, key=len)
    kind = f"{len(labels)} class-named folders, such as {labels[example][0]!r}"
    return FolderSource(
        name,
        listing.root,
        PackedStrings.of(paths),
        captions.build(len(paths)),
        listing.problems,
        kind,
    )
