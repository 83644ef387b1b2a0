"""What stands in a folder, found without following anything out of it."""

# ruff: noqa: PTH116, PTH118
# File names are bytes here: any name must survive, and pathlib takes text.

from __future__ import annotations

import os
import posixpath
from collections import Counter
from dataclasses import dataclass, field

from latentdiff.data.decode import decoding as decode
from latentdiff.data.decode.regular import unreadable
from latentdiff.data.sources.packed import Problems, printable

_MAX_DEPTH = 64
PICTURES = tuple(e.encode() for e in decode.EXTENSIONS)
ON_REQUEST = (b".gif", b".tif", b".tiff")
# Named like pictures, but of formats that are not read: said, not passed over.
FOREIGN: tuple[bytes, ...] = (
    b".heic",
    b".heif",
    b".avif",
    b".jxl",
    b".jp2",
    b".psd",
    b".svg",
    b".cr2",
    b".nef",
)
FOREIGN += (b".dng", b".tga", b".ico", b".exr", b".hdr")


@dataclass(kw_only=True)
class Listing:
    """Paths are relative to the root, in bytes, with "/" between the parts, sorted."""

    root: bytes
    pictures: list[bytes] = field(default_factory=list)
    texts: set[bytes] = field(default_factory=set)  # .txt and .caption files
    tables: list[bytes] = field(default_factory=list)  # .jsonl, .csv, .parquet, .json, .tsv
    archives: list[bytes] = field(default_factory=list)  # .tar and its like
    folders: list[bytes] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # by extension
    problems: Problems = field(default_factory=Problems)


def walk(root: str | os.PathLike[str], *, allow_gif_tiff: bool = False) -> Listing:
    """List a folder and all below it. Hidden names are passed over, links to folders not followed.

    Links to files are kept when they stay below the root.
    """
    found = Listing(root=os.path.realpath(os.fsencode(root)))
    stack = [(b"", 0)]
    while stack:
        folder, depth = stack.pop()
        try:
            with os.scandir(os.path.join(found.root, folder)) as entries:
                for entry in entries:
                    if entry.name.startswith(b".") or entry.name == b"__MACOSX":
                        continue
                    path = folder + entry.name
                    if _folder(entry, path):
                        if depth < _MAX_DEPTH:
                            found.folders.append(path)
                            stack.append((path + b"/", depth + 1))
                        else:
                            found.problems.add(printable(path), "too-deep", "folders too deep")
                    else:
                        _file(entry, path, found, allow_gif_tiff)
        except OSError as error:
            problem = unreadable(error)
            found.problems.add(printable(folder or b"."), problem.code, f"folder: {problem}")
    for names in (found.pictures, found.tables, found.archives, found.folders):
        names.sort()
    return found


def _folder(entry: os.DirEntry[bytes], path: bytes) -> bool:
    """Whether to go down into it: not into links, nor where a picture is expected."""
    try:
        is_folder = entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
    return is_folder and _extension(path) not in PICTURES


def _extension(path: bytes) -> bytes:
    return posixpath.splitext(path)[1].lower()


def _file(entry: os.DirEntry[bytes], path: bytes, found: Listing, allow_gif_tiff: bool) -> None:
    extension = _extension(path)
    if extension in FOREIGN or (extension in ON_REQUEST and not allow_gif_tiff):
        reason = f"{extension.decode()[1:].upper()} is not read; convert it to JPEG, PNG or WebP"
        found.problems.add(printable(path), "format", reason)
        return
    if extension in PICTURES:
        problem = _unusable(entry, found.root)
        if problem is None:
            found.pictures.append(path)
        else:
            found.problems.add(printable(path), *problem)
        return
    try:
        if entry.is_symlink() and entry.is_dir():
            found.problems.add(
                printable(path), "link", "a link to a folder is not followed", fatal=False
            )
            return
        if not entry.is_file() or (entry.is_symlink() and not inside(entry.path, found.root)):
            return
    except OSError:
        return
    if extension in (b".txt", b".caption"):
        found.texts.add(path)
    elif extension in (b".jsonl", b".csv", b".parquet", b".json", b".tsv", b".arrow"):
        found.tables.append(path)
    elif is_archive(path):
        found.archives.append(path)
    else:
        found.others[printable(extension) or "no extension"] += 1


def is_archive(path: bytes) -> bool:
    return path.lower().endswith((b".tar", b".tar.gz", b".tgz", b".tar.zst", b".tar.bz2"))


def _unusable(entry: os.DirEntry[bytes], root: bytes) -> tuple[str, str] | None:
    try:
        if entry.is_symlink():
            if not inside(entry.path, root):
                return "path-out", "a link out of the data set is not followed"
            os.stat(entry.path)  # says why, where is_file would only say no
        if not entry.is_file():
            return "not-a-file", "a folder, device, FIFO or socket, not a file"
    except OSError as error:
        problem = unreadable(error)
        return problem.code, str(problem)
    return None


def inside(path: bytes, root: bytes) -> bool:
    """Whether `path`, links resolved, stands below `root` (itself resolved)."""
    try:
        return os.path.realpath(path).startswith(root.rstrip(b"/") + b"/")
    except (OSError, ValueError):
        return False
