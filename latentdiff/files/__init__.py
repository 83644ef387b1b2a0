"""Writing so that nothing half-written is ever seen: used by every room that writes.

A file is written beside its place, synced to disk, then renamed over it (POSIX rename is atomic).
A folder is filled beside its place, synced, given its manifest last, then renamed; one that
already stood there is exchanged for it in one step where the system can.

Every change of the disk here is in the end one call of `os`, which a test can make fail.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import io
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from latentdiff.errors import UserError
from latentdiff.files.lock import FolderLock, refuse_file_for_folder

__all__ = [
    "MANIFEST",
    "FolderLock",
    "abandoned",
    "atomic_path",
    "discard_folder",
    "new_file",
    "process_token",
    "publish_folder",
    "refuse_file_for_folder",
    "remove_temporaries",
    "sha256_file",
    "sync",
    "verify_manifest",
    "write_bytes",
    "write_json",
    "write_manifest",
    "write_text",
]

MANIFEST = "manifest.json"
_TEMPORARY = ".tmp-"
_REPLACED = ".old-"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def _temporary_beside(path: Path) -> Path:
    # The suffix is kept: picture libraries choose the format by it. A name holds 255 bytes.
    stem = path.stem.encode("utf-8")[:120].decode("utf-8", "ignore")
    return path.with_name(f"{_TEMPORARY}{stem}-{process_token()}{path.suffix[:40]}")


@functools.cache
def _host() -> str:
    """Four digits for this machine."""
    return hashlib.sha256(platform.node().encode("utf-8", "replace")).hexdigest()[:4]


def process_token() -> str:
    """A name that no other process ever has, from which `abandoned` sees whether its own lives."""
    return f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def abandoned(path: Path) -> bool:
    """Whether a path, named with a `process_token`, is of a dead process of this machine."""
    named = re.search(r"(?:^|-)([0-9a-f]{4})-(\d+)-[0-9a-f]{8}(\.|$)", path.name)
    if named is None or named.group(1) != _host():
        return False
    try:
        os.kill(int(named.group(2)), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def sync(path: Path) -> None:
    """Flush a file's or a folder's own entry to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems keep folders in order by themselves and refuse the question.
        if not (error.errno == errno.EINVAL and path.is_dir()):
            raise
    finally:
        os.close(descriptor)


class _Descriptor(io.RawIOBase):
    """A file whose every write is one `os.write`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor: int | None = descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        # A buffer that outlives a failed write empties itself here: into nothing, not into
        # whatever file has the number by then.
        return len(data) if self.descriptor is None else os.write(self.descriptor, data)


@contextlib.contextmanager
def new_file(path: Path, *, buffer: int = 1 << 20) -> Iterator[BinaryIO]:
    """Yield a new file, open for writing bytes, and sync it to disk on success.

    It is for temporaries and for folders that are being published: an error leaves what was
    written so far. Raises FileExistsError when `path` stands already.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags, 0o666)
    raw = _Descriptor(descriptor)
    try:
        writer = io.BufferedWriter(raw, buffer)
        yield writer
        writer.flush()
        os.fsync(descriptor)
    finally:
        raw.descriptor = None
        os.close(descriptor)


def _writable_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {path.parent} ({error.strerror}); choose another place"
        ) from error


def _free(folder: Path) -> int | None:
    """Bytes free for this user on the disk of `folder`; None where the system does not say."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else None


def _too_full(path: Path, size: int) -> UserError:
    """The message for a disk that `size` bytes more do not fit on, counted without them."""
    free = _free(path.parent) or 0
    said = f"the disk is full: {path} takes {size:,} bytes, {free:,} are free"
    if free < size:
        return UserError(f"{said}, {size - free:,} bytes are missing; make room and try again")
    return UserError(f"{said}, so a quota or the number of files is the limit; make room")


def _explain(path: Path, error: Exception, number: int, size: int) -> UserError:
    """What to tell the user; call it once the temporary is gone."""
    if number in _FULL:
        return _too_full(path, size)
    why = os.strerror(number) if number else error
    return UserError(f"cannot write {path} ({why}); choose another place")


def _size(path: Path) -> int:
    """Bytes below a file or folder, as far as they can be counted."""
    total = 0
    with contextlib.suppress(OSError):
        for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
            total += file.lstat().st_size
    return total


@contextlib.contextmanager
def _published(
    target: Path, size: int, temporary: Path, remove: Callable[[Path], None]
) -> Iterator[None]:
    """What files and folders share: the check for room, the tidying, and the message."""
    _writable_parent(target)
    free = _free(target.parent)
    if free is not None and free < size:
        raise _too_full(target, size)
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if isinstance(error, UserError) and str(temporary) in str(error):
            # Of a file inside a folder that is being published: the user knows its last place.
            raise UserError(str(error).replace(str(temporary), str(target))) from error
        if number is None:
            raise
        size = max(size, _size(temporary))
        remove(temporary)
        raise _explain(target, error, number, size) from error
    finally:
        remove(temporary)


def _error_number(error: Exception) -> int | None:
    """The system's number of an error; libraries in Rust (safetensors) give it in words only."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told.group(1)) if told and not isinstance(error, UserError) else None


def _remove_file(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _remove_folder(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def atomic_path(path: str | Path, *, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it into place.

    On any error, Ctrl-C included, the temporary is removed and whatever stood at `path` stays.
    `size` is the number of bytes to come, if it is known: a disk without room for them is refused
    before the first. Raises UserError when the place cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(f"{target} is a folder; a file name was expected")
    temporary = _temporary_beside(target)
    with _published(target, size, temporary, _remove_file):
        yield temporary
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, atomically."""
    with atomic_path(path, size=len(data)) as temporary, new_file(temporary) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, _json(value))


@contextlib.contextmanager
def publish_folder(path: str | Path, *, manifest: bool = True, size: int = 0) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success publish it there in one rename.

    Every file is synced, the SHA-256 manifest is written last (if asked for), and a folder that
    already stood at `path` is put aside and removed only after the new one stands. `size`: as in
    `atomic_path`.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file; a folder name was expected")
    temporary = _temporary_beside(target)
    with _published(target, size, temporary, _remove_folder):
        temporary.mkdir()
        yield temporary
        for file in sorted(temporary.rglob("*")):
            sync(file)
        if manifest:
            write_manifest(temporary)
        sync(temporary)
        _swap(temporary, target)


def _swap(temporary: Path, target: Path) -> None:
    """Put a folder into its place; what stood there is at `temporary` or gone afterwards."""
    if not target.exists():
        temporary.rename(target)
        sync(target.parent)
    elif _exchange(temporary, target):
        sync(target.parent)
    else:
        aside = target.with_name(_REPLACED + target.name)
        _remove_folder(aside)
        target.rename(aside)
        try:
            temporary.rename(target)
        except OSError:
            aside.rename(target)
            raise
        sync(target.parent)
        _remove_folder(aside)


@functools.cache
def _renameat2() -> Any:
    """The C library's renameat2, or None where there is none."""
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot.

    Linux: renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE).
    """
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    here, exchange = -100, 2
    if renameat2(here, os.fsencode(a), here, os.fsencode(b), ctypes.c_uint(exchange)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(b))


def remove_temporaries(folder: str | Path) -> None:
    """Remove what an interrupted write left in `folder`, and put back what it had moved aside."""
    root = Path(folder)
    for aside in root.glob(f"{_REPLACED}*"):
        target = aside.with_name(aside.name.removeprefix(_REPLACED))
        if target.exists():
            _remove_folder(aside)
        else:
            aside.rename(target)
    for left in root.glob(f"{_TEMPORARY}*"):
        if left.is_dir() and not left.is_symlink():
            _remove_folder(left)
        else:
            _remove_file(left)


def discard_folder(folder: Path) -> None:
    """Remove a folder so that a half-removed one is never taken for it."""
    aside = _temporary_beside(folder)
    folder.rename(aside)
    _remove_folder(aside)


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: str | Path) -> None:
    """Write `manifest.json`: size and SHA-256 of every other file below `folder`."""
    root = Path(folder)
    files = {
        file.relative_to(root).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": sha256_file(file),
        }
        for file in sorted(root.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    write_json(root / MANIFEST, {"files": files})


def verify_manifest(folder: str | Path, *, needed: Iterable[str] = ()) -> list[str]:
    """What is wrong with `folder` against its manifest, a line each; empty when it is whole.

    `needed` names files that the manifest must list. A manifest is only believed as it was
    written, to the last byte.
    """
    root = Path(folder)
    try:
        text = (root / MANIFEST).read_bytes().decode("utf-8")
        value = json.loads(text)
        expected = {str(n): (int(e["bytes"]), str(e["sha256"])) for n, e in value["files"].items()}
        if text != _json(value):
            return [f"{MANIFEST} is not as it was written"]
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        return [f"{MANIFEST} cannot be read"]
    problems = [f"{MANIFEST} does not list {name}" for name in needed if name not in expected]
    for name, (size, digest) in expected.items():
        file = root / name
        try:
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif file.stat().st_size != size:
                problems.append(f"{name} has {file.stat().st_size} bytes, {size} were written")
            elif sha256_file(file) != digest:
                problems.append(f"{name} differs from what was written (SHA-256)")
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")
    return problems
