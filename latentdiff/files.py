"""Writing so that nothing half-written is ever seen: used by every room that writes.

A file is written beside its place, synced to disk, then renamed over it (POSIX rename is atomic).
A folder is filled beside its place, synced, given its manifest last, then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from latentdiff.errors import UserError

MANIFEST = "manifest.json"
_TEMPORARY = ".tmp-"


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f"{_TEMPORARY}{path.name[:80]}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def sync(path: Path) -> None:
    """Flush a file's or a folder's own entry to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _writable_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {path.parent} ({error.strerror}); choose another place"
        ) from error


def _explain(path: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(path.parent).free
        return UserError(f"the disk is full while writing {path}: {free:,} bytes are free")
    return UserError(f"cannot write {path} ({error.strerror}); choose another place")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it into place.

    On any error, Ctrl-C included, the temporary is removed and whatever stood at `path` stays.
    Raises UserError when the place cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(f"{target} is a folder; a file name was expected")
    _writable_parent(target)
    # The suffix is kept: picture libraries choose the format by it.
    temporary = _temporary_beside(target).with_suffix(target.suffix)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)
    except OSError as error:
        raise _explain(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def publish_folder(path: str | Path, *, manifest: bool = True) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success publish it there in one rename.

    Every file is synced, the SHA-256 manifest is written last (if asked for), and a folder that
    already stood at `path` is put aside and removed only after the new one stands.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file; a folder name was expected")
    _writable_parent(target)
    temporary = _temporary_beside(target)
    try:
        temporary.mkdir()
        yield temporary
        if manifest:
            write_manifest(temporary)
        for file in sorted(temporary.rglob("*")):
            sync(file)
        sync(temporary)
        _swap(temporary, target)
    except OSError as error:
        raise _explain(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        sync(target.parent)
        return
    aside = _temporary_beside(target)
    target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        aside.rename(target)
        raise
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_temporaries(folder: str | Path) -> None:
    """Remove what an interrupted write left in `folder`."""
    for left in Path(folder).glob(f"{_TEMPORARY}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


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


def verify_manifest(folder: str | Path) -> list[str]:
    """What is wrong with `folder` against its manifest, a line each; empty when it is whole."""
    root = Path(folder)
    try:
        listed = json.loads((root / MANIFEST).read_text("utf-8"))["files"]
        expected = {str(name): (int(e["bytes"]), str(e["sha256"])) for name, e in listed.items()}
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return [f"{MANIFEST} cannot be read"]
    problems = []
    for name, (size, digest) in expected.items():
        file = root / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{name} has {file.stat().st_size} bytes, {size} were written")
        elif sha256_file(file) != digest:
            problems.append(f"{name} differs from what was written (SHA-256)")
    return problems


class FolderLock:
    """One writer a folder: a second one is refused with a UserError.

    The lock is the kernel's (`flock`), so it goes with its process however that ends: a stale
    lock file hinders nobody.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / ".lock"
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        _writable_parent(self.path)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise UserError(
                f"{self.path.parent} is in use by process {holder}; "
                "wait for it to end, or choose another folder"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode("ascii"))
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
