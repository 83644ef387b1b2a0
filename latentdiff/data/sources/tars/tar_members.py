"""The members of a tar archive, walked by their headers; nothing is ever unpacked onto the disk.

POSIX.1-2001 (pax) and GNU tar. Every member is judged here and not by `tarfile`, whose filter can
be bypassed (before Python 3.11.13) and which keeps an object for each of a million members.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

BLOCK = 512
_MAX_NAME = 1 << 16  # bytes of a long name
_MAX_PAX = 1 << 20  # bytes of a pax header
MAX_EMPTY = 100_000  # members without content that are walked; no data set has them
_KINDS = {
    b"1": "a hard link",
    b"2": "a link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse file",
}


class TarDamage(Exception):  # noqa: N818  (what happened, as BadPicture)
    """Where the walk ends early. fatal: members may be lost behind it."""

    def __init__(self, code: str, reason: str, *, fatal: bool = True) -> None:
        super().__init__(reason)
        self.code, self.fatal = code, fatal


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in the archive, or (with `problem`) something that is refused.

    offset: of the content in the archive; problem: (code, reason).
    """

    name: bytes
    offset: int
    size: int
    problem: tuple[str, str] | None = None


class Reader:
    """A file read forwards. seekable: what is passed over need not be read."""

    def __init__(self, file: IO[bytes], *, seekable: bool) -> None:
        self._file, self._seekable = file, seekable
        self.position = 0
        self._size: int | None = None
        if seekable:
            self._size = file.seek(0, 2)
            file.seek(0)

    def read(self, count: int) -> bytes:
        """`count` bytes, or fewer at the end."""
        parts = []
        while count > 0:
            part = self._file.read(count)
            if not part:
                break
            parts.append(part)
            count -= len(part)
            self.position += len(part)
        return b"".join(parts)

    def skip_to(self, position: int) -> bool:
        """Go forwards; False when the file ends before that."""
        if self._seekable and self._size is not None:
            if position > self._size:
                return False
            if position != self.position:
                self._file.seek(position)
                self.position = position
            return True
        while self.position < position:
            if not self.read(min(1 << 20, position - self.position)):
                return False
        return True


def members(reader: Reader) -> Iterator[Member]:
    """Every member but folders. While one is yielded the reader stands at its content, which may
    be read or not. Raises TarDamage: "truncated", "checksum", "too-many"."""
    names: dict[str, bytes | int] = {}
    empty = 0
    while True:
        start = reader.position
        block = reader.read(BLOCK)
        if not block:
            raise TarDamage("truncated", "the archive's end mark is missing", fatal=False)
        if len(block) < BLOCK:
            raise TarDamage("truncated", f"the archive is cut off at byte {start + len(block):,}")
        if block.count(0) == BLOCK:
            return
        kind, size, name = _header(block, start)
        if kind in (b"L", b"K", b"x", b"g"):
            names.update(_extended(reader, kind, size))
        else:
            name = _as_bytes(names.get("path", name))
            size = int(names.get("size", size))
            names = {}
            # What is no file has no content, whatever its size field says.
            size = size if kind in (b"0", b"\0", b"7", b"S") or kind not in _KINDS else 0
            size = 0 if kind == b"5" else size
            content = start_of_content = reader.position
            if kind != b"5" and not (kind in (b"0", b"\0") and name.endswith(b"/")):
                empty += size == 0
                if empty > MAX_EMPTY:
                    raise TarDamage("too-many", f"more than {MAX_EMPTY:,} empty members")
                yield Member(name, start_of_content, size, _problem(name, kind))
            end = content + size
            if not reader.skip_to(end + -end % BLOCK) and not reader.skip_to(end):
                raise TarDamage("truncated", f"the archive is cut off inside {_text(name)}")


def _header(block: bytes, start: int) -> tuple[bytes, int, bytes]:
    """(type flag, size, name) of one header block."""
    stored = _number(block[148:156])
    if stored is None or stored != sum(block) - sum(block[148:156]) + 8 * 32:
        words = "no tar archive" if start == 0 else f"a damaged header at byte {start:,}"
        raise TarDamage("checksum", f"{words} (its checksum is wrong)")
    size = _number(block[124:136])
    if size is None or size < 0:
        raise TarDamage("checksum", f"a header without a size at byte {start:,}")
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return block[156:157], size, name


def _number(field: bytes) -> int | None:
    if field[0] & 0x80:  # GNU: base 256, for what octal digits cannot hold
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return None


def _extended(reader: Reader, kind: bytes, size: int) -> dict[str, bytes | int]:
    """What a long name or a pax header says about the member after it."""
    if size > (_MAX_PAX if kind in (b"x", b"g") else _MAX_NAME):
        raise TarDamage("checksum", f"a header of {size:,} bytes before byte {reader.position:,}")
    data = reader.read(size)
    end = reader.position + -size % BLOCK
    if len(data) < size or not reader.skip_to(end):
        raise TarDamage("truncated", f"the archive is cut off at byte {reader.position:,}")
    if kind == b"L":
        return {"path": data.rstrip(b"\0")}
    if kind != b"x":
        return {}
    found: dict[str, bytes | int] = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or len(length) > 7 or not 0 < int(length) <= len(data):
            raise TarDamage("checksum", f"a damaged pax header before byte {reader.position:,}")
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            found["path"] = value
        elif key == b"size" and value.isdigit() and len(value) < 20:
            found["size"] = int(value)
        data = data[int(length) :]
    return found


def _problem(name: bytes, kind: bytes) -> tuple[str, str] | None:
    if kind not in (b"0", b"\0", b"7"):
        what = _KINDS.get(kind, f"a member of unknown kind {_text(kind)!r}")
        return "member-kind", f"{what}, not a file; it is passed over"
    if name.startswith((b"/", b"\\")) or name[1:2] == b":":
        return "path-out", "a member with an absolute path"
    if b".." in name.replace(b"\\", b"/").split(b"/"):
        return "path-out", 'a member with ".." in its path'
    if name.lower().endswith((b".tar", b".tar.gz", b".tgz", b".zip")):
        return "archive-inside", "an archive inside the archive is not opened"
    return None


def _as_bytes(value: bytes | int) -> bytes:
    return value if isinstance(value, bytes) else b"%d" % value


def _text(name: bytes) -> str:
    return ascii(name.decode("utf-8", "replace"))[1:-1][:200]
