"""One writer a folder, whatever becomes of the writer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from latentdiff.errors import UserError


def refuse_file_for_folder(folder: Path) -> None:
    """UserError where a file stands at a folder's place, or at that of one above it."""
    there = next((p for p in (folder, *folder.parents) if p.exists()), None)
    if there is not None and not there.is_dir():
        raise UserError(f"{there} is a file, not a folder; choose another place")


class FolderLock:
    """One writer a folder: a second one is refused with a UserError.

    The lock is the kernel's (`flock`), so it goes with its process however that ends: a stale
    lock file hinders nobody. Children of the process do not keep it.
    """

    _held: ClassVar[set[FolderLock]] = set()

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / ".lock"
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileExistsError, NotADirectoryError) as error:
            refuse_file_for_folder(self.path.parent)
            raise UserError(f"{self.path.parent} is no folder; choose another place") from error
        except OSError as error:
            raise UserError(
                f"cannot write {self.path} ({error.strerror}); choose another place"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"cannot lock {self.path} ({error.strerror}); choose a folder on another disk"
                ) from error
            raise UserError(
                f"{self.path.parent} is in use by process {holder}; "
                "wait for it to end, or choose another folder"
            ) from error
        # The number is a courtesy to whoever is refused; a full disk must not stand in the way.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode("ascii"))
        self._descriptor = descriptor
        self._held.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._let_go()

    def _let_go(self) -> None:
        self._held.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @classmethod
    def _forked(cls) -> None:
        """In a child process: a data worker that outlives its trainer must not hold the folder."""
        for lock in tuple(cls._held):
            lock._let_go()


os.register_at_fork(after_in_child=FolderLock._forked)
