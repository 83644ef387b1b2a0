"""What a table names -> a regular file below the table's folder, whoever wrote the name."""

# ruff: noqa: PTH116, PTH118
# File names are bytes here: any name must survive, and pathlib takes text.

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import unicodedata

from latentdiff.data.decode.regular import unreadable
from latentdiff.data.records import BadPicture
from latentdiff.data.sources.listing import inside


class NamedFiles:
    """Finds what a table names, below the table's folder and nowhere else."""

    def __init__(self, base: bytes) -> None:
        self.base = base
        self.by_case: set[bytes] = set()  # found under a name that differs by case
        self._folders: dict[bytes, bool] = {}  # whether it stands inside, links resolved
        self._entries: dict[bytes, dict[bytes, list[bytes]]] = {}  # by folder, in lower case

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
        if problem.code == "missing":
            return self._other_case(tried, problem)
        raise problem

    def _other_case(self, tried: list[bytes], problem: BadPicture) -> bytes:
        """The one file whose name differs from a tried one by the case of its letters."""
        for candidate in tried:
            folder, name = posixpath.split(posixpath.normpath(candidate))
            found = self._in_lower_case(folder).get(name.lower(), [])
            if len(found) == 1:
                path = posixpath.join(folder, found[0])
                try:
                    self._check(path)
                except OSError as error:
                    raise unreadable(error) from error
                self.by_case.add(path)
                return path
        raise problem

    def _in_lower_case(self, folder: bytes) -> dict[bytes, list[bytes]]:
        if folder not in self._entries:
            found = self._entries.setdefault(folder, {})
            with contextlib.suppress(OSError, ValueError):
                for name in os.listdir(os.path.join(self.base, folder)):
                    found.setdefault(name.lower(), []).append(name)
        return self._entries[folder]

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
