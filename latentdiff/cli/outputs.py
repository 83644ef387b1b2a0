"""Where a command puts what it makes: `-o FILE`, or `-o FOLDER/`, made where it is missing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from latentdiff import files
from latentdiff.errors import UserError

Named = Annotated[str | None, tyro.conf.arg(aliases=["-o"], metavar="FILE|FOLDER/")]
"""The option as it is written. It stays text: a path would lose the slash at its end."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """path: of the file, or of the folder that files get fresh names in."""

    path: Path
    is_folder: bool

    @classmethod
    def of(cls, written: str | os.PathLike[str] | None) -> Output:
        """What an option names. A folder: one that stands there, or a name with a slash at its
        end. None is the current folder."""
        text = os.fspath(written or "")
        slash = text.endswith(tuple(s for s in (os.sep, os.altsep) if s))
        path = Path(text)
        return cls(path=path, is_folder=slash or path.is_dir())

    def file(self, name: str) -> Path:
        """The named file, or the file `name` in the named folder."""
        return self.path / name if self.is_folder else self.path

    def fresh(self, name: str, suffix: str) -> Path:
        """The named file, or in the named folder a file `name` that is not there yet."""
        if not self.is_folder:
            return self.path
        path, count = self.path / f"{name}{suffix}", 1
        while path.exists():
            count += 1
            path = self.path / f"{name}-{count}{suffix}"
        return path

    def check(self, suffixes: Collection[str]) -> None:
        """Find out before the work that its result can be kept; UserError where it cannot.

        suffixes: of the files that can be written.
        """
        if not self.is_folder and self.path.suffix.lower() not in suffixes:
            known = ", ".join(suffixes)
            raise UserError(
                f"{self.path} is neither a folder nor a file of a known kind; expected one of "
                f"{known}, or a slash at the end for a new folder"
            )
        folder = self.path if self.is_folder else self.path.parent
        files.refuse_file_for_folder(folder)
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise UserError(
                f"cannot write in {folder} ({error.strerror}); choose another place with -o"
            ) from error
