"""Folders of pictures: with a metadata table, with .txt sidecars, or with a folder for each class.

The pictures' order is the table's, or that of their paths' bytes: never the file system's.
"""

# ruff: noqa: PTH116, PTH118, PTH120
# File names are bytes here: any name must survive, and pathlib takes text.

from __future__ import annotations

import os
import posixpath
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import latentdiff.data.sources.text as text
from latentdiff.data.decode.regular import file_state, read_regular, unreadable
from latentdiff.data.records import BadPicture
from latentdiff.data.sources.listed import Listed
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
    files = _Files(os.path.dirname(os.path.realpath(os.fsencode(table.path))))
    for entry in table.entries(problems):
        total += 1
        try:
            path = files.find(entry.file)
        except BadPicture as problem:
            problems.add(entry.where, problem.code, f"{_shown(entry.file)}: {problem}")
            first_missing = first_missing or _shown(entry.file)
            continue
        where = f"{entry.where} {printable(path)}"
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


class _Files:
    """Finds what a table names, below the table's folder and nowhere else."""

    def __init__(self, base: bytes) -> None:
        self.base = base
        self._folders: dict[bytes, bool] = {}  # whether it stands inside, links resolved

    def find(self, file: object) -> bytes:
        """A table's file name -> the path of a regular file below `base`. Raises BadPicture."""
        if not isinstance(file, str) or not file.strip():
            raise BadPicture("file-name", "the file name is missing or not a string")
        if "\0" in file:
            raise BadPicture("file-name", "the file name holds a zero byte")
        if "://" in file:
            raise BadPicture("file-name", "an address, not a file; download it first")
        if file.startswith(("/", "\\", "~/")) or file[1:3] in (":\\", ":/"):
            raise BadPicture("path-out", "an absolute path; give it relative to the table's folder")
        try:
            path = os.fsencode(file)
        except UnicodeEncodeError as error:
            raise BadPicture("file-name", "the file name is no valid text") from error
        tried = [path]
        if b"\\" in path:
            tried.append(path.replace(b"\\", b"/"))
        # A Mac writes decomposed names; the table often holds the composed form, or the reverse.
        if not path.isascii():
            tried += [os.fsencode(unicodedata.normalize(form, file)) for form in ("NFC", "NFD")]
        for candidate in tried:
            if b".." in candidate.split(b"/"):
                raise BadPicture("path-out", 'a path with ".." may lead out of the data set')
        problem = BadPicture("missing", "there is no such file")
        for candidate in tried:
            clean = posixpath.normpath(candidate)
            try:
                self._check(clean)
            except OSError as error:
                known = unreadable(error)
                problem = problem if known.code == "missing" else known
                continue
            return clean
        raise problem

    def _check(self, path: bytes) -> None:
        whole = os.path.join(self.base, path)
        mode = os.lstat(whole).st_mode
        linked = stat.S_ISLNK(mode)
        if not stat.S_ISREG(os.stat(whole).st_mode if linked else mode):
            raise BadPicture("not-a-file", "a folder, device, FIFO or socket, not a file")
        folder = posixpath.dirname(whole)
        if folder not in self._folders:
            self._folders[folder] = folder == self.base or inside(folder, self.base)
        if not self._folders[folder] or (linked and not inside(whole, self.base)):
            raise BadPicture("path-out", "a link out of the data set is not followed")


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
    return UserError(
        f"none of the {total:,} rows of {table.path} can be used (first: {first!r})"
        f"{problems.summary()}.{guess}"
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
    for row, path in enumerate(paths):
        sidecar = prefix + posixpath.splitext(path)[0] + b".txt"
        if sidecar not in listing.texts:
            continue
        said, _ = _read_sidecar(listing.root, sidecar)
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


def _read_sidecar(root: bytes, path: bytes) -> tuple[list[str], list[text.Finding]]:
    try:
        data = read_regular(os.path.join(root, path), max_bytes=text.MAX_SIDECAR)
    except BadPicture as problem:
        code = "caption-long" if problem.code == "too-large" else "caption-missing"
        return [], [text.Finding(code, f"the caption file: {problem}", True)]
    return text.from_file(data)


def from_sidecars(name: str, listing: Listing, *, need_captions: bool = True) -> FolderSource:
    """Pictures with a .txt file of the same name beside them; each of its lines is a caption."""
    problems = listing.problems
    paths: list[bytes] = []
    captions = CaptionsBuilder()
    unused = set(listing.texts)
    for path in listing.pictures:
        sidecar = posixpath.splitext(path)[0] + b".txt"
        if sidecar in listing.texts:
            unused.discard(sidecar)
            found, findings = _read_sidecar(listing.root, sidecar)
        else:
            found, findings = [], [text.Finding("caption-missing", "no .txt file beside it", True)]
        _report(problems, printable(path), findings, need_captions)
        if not found and need_captions:
            continue
        captions.add(len(paths), found)
        paths.append(path)
    for sidecar in sorted(unused):
        problems.add(
            printable(sidecar), "picture-missing", "a caption without a picture", fatal=False
        )
    if not paths:
        raise UserError(f"{name}: no picture with a usable .txt caption{problems.summary()}")
    built = captions.build(len(paths))
    kind = ".txt sidecars" if built.count else "no captions"
    return FolderSource(name, listing.root, PackedStrings.of(paths), built, problems, kind)


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
