"""Packed tar archives: gzip is unpacked to a plain tar first, the others are named."""

from __future__ import annotations

import os
import tempfile
import zlib
from pathlib import Path
from typing import IO

from latentdiff.data.sources.packed import Problems
from latentdiff.errors import UserError

_MAX_RATIO = 200  # unpacked to packed; pictures hardly pack at all
_MAX_UNPACKED = 8 << 30


def is_packed(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(6)
    if head[:3] == b"BZh" or head[:4] == b"\x28\xb5\x2f\xfd" or head == b"\xfd7zXZ\0":
        raise UserError(f"{file} is packed by bzip2, zstd or xz; unpack it to a .tar first")
    return head[:2] == b"\x1f\x8b"


def unpack(file: Path, shown: str, problems: Problems) -> Path:
    """A .tar.gz cannot be read at random: its plain tar, in the folder for temporary files. What
    stands before any damage is kept."""
    descriptor, name = tempfile.mkstemp(prefix="latentdiff-", suffix=".tar")
    try:
        with os.fdopen(descriptor, "wb") as target, file.open("rb") as packed:
            damage = _gunzip(packed, target, file.stat().st_size)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise UserError(f"{file} cannot be unpacked to {name} ({error.strerror})") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if damage is not None:
        problems.add(shown, *damage)
    return Path(name)


def _gunzip(packed: IO[bytes], target: IO[bytes], size: int) -> tuple[str, str] | None:
    """Unpack a gzip file of `size` bytes; (code, reason) when it is damaged or a bomb."""
    stream, total = zlib.decompressobj(31), 0
    while rest := packed.read(1 << 16):
        while rest:
            if stream.eof:  # several gzip streams in a row are one file; zeros may follow
                rest = rest.lstrip(b"\0")
                stream = zlib.decompressobj(31)
                continue
            before = stream.copy()
            try:
                part = stream.decompress(rest, 1 << 20)
            except zlib.error as error:
                target.write(_before_the_error(before, rest))
                return "checksum", f"the gzip stream is damaged ({error})"
            total += target.write(part)
            if total > 64 << 20 and total > _MAX_RATIO * size:
                return "ratio", f"{size:,} bytes unpack to more than {_MAX_RATIO} times as many"
            if total > _MAX_UNPACKED:
                raise UserError(f"{packed.name} is too large to be read packed; gunzip it first")
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
    if not stream.eof:
        target.write(stream.flush())
        return "truncated", "the gzip stream is cut off"
    return None


def _before_the_error(stream: zlib._Decompress, rest: bytes) -> bytes:
    """What a stream gives byte by byte until it fails."""
    found = bytearray()
    try:
        for byte in rest:
            found += stream.decompress(bytes([byte]))
    except zlib.error:
        pass
    return bytes(found)
