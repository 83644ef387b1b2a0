"""Reading a file of a data set: a regular file, of bounded size, or a BadPicture that says why.

A folder of pictures can hold anything: a FIFO that never answers, a device, a link into a loop.
A name is opened without waiting, and what was opened is looked at, so that nothing can change in
between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from latentdiff.data.records import BadPicture

MAX_BYTES = 128 << 20  # of one picture file: an uncompressed bitmap of 40 million pixels

_REASONS = {
    errno.ENOENT: ("missing", "the file is not there (moved, deleted, or a dangling link)"),
    errno.ELOOP: ("link", "a link that leads back to itself"),
    errno.EACCES: ("permission", "the file may not be read (permission denied)"),
    errno.EPERM: ("permission", "the file may not be read (operation not permitted)"),
    errno.EISDIR: ("not-a-file", "a folder, not a file"),
    errno.ENOTDIR: ("missing", "a part of its path is a file, not a folder"),
    errno.ENAMETOOLONG: ("missing", "the name is too long for this file system"),
    errno.ENXIO: ("not-a-file", "a device or socket, not a file"),
}


def unreadable(error: OSError) -> BadPicture:
    """The reason for an error of the operating system, by its number."""
    known = _REASONS.get(error.errno or 0)
    return BadPicture(*known) if known else BadPicture("io", f"cannot be read ({error.strerror})")


@contextlib.contextmanager
def open_regular(path: Path | bytes, *, max_bytes: int = MAX_BYTES) -> Iterator[BufferedReader]:
    """A regular file, open for reading. Raises BadPicture: "missing", "link", "permission",
    "not-a-file", "too-large", "io"; so do errors of reading inside."""
    try:
        # Without O_NONBLOCK a FIFO would wait for its writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise unreadable(error) from error
    except ValueError as error:  # a zero byte in the name
        raise BadPicture("missing", "the name holds a zero byte") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadPicture("not-a-file", _what(status.st_mode) + ", not a file")
        if status.st_size > max_bytes:
            raise BadPicture(
                "too-large", f"{status.st_size:,} bytes; at most {max_bytes:,} are read"
            )
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    except OSError as error:
        raise unreadable(error) from error
    finally:
        os.close(descriptor)


def read_regular(path: Path | bytes, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file. Raises BadPicture as `open_regular` does."""
    with open_regular(path, max_bytes=max_bytes) as file:
        return file.read(max_bytes + 1)


class FileView:
    """A file's bytes by slice, read where they are asked for."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self._size)
        self._file.seek(start)
        return self._file.read(max(0, stop - start))


def _what(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return name
    return "a device"


def file_state(status: os.stat_result) -> str:
    """What changes when a file's content does: size, time of content, time of status.

    The last is the kernel's own: whoever puts the time of content back moves it.
    """
    return f"{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"
