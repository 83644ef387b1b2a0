"""A disk that fails on demand: every call of `os` that changes it is counted, and one may strike.

`Disk` stands between `os` and the code while it is entered. Calls that change something below
`root` are recorded in `calls`; number `at` raises, or ends the process, before it is carried out.
Writes are cut into pieces, as a system may, so that there are many. Nothing is really synced: that
is slow and proves nothing here. What a loss of power would leave is told by `Replay`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from latentdiff import files

PIECE = 200
KILLED = 137
_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Call:
    """One call, its paths relative to the root."""

    name: str
    path: str
    other: str = ""
    data: bytes = b""

    def __str__(self) -> str:
        return f"{self.name} {self.path} {self.other}".strip()


class Disk:
    """While entered, the calls below `root` are counted; `strike` is called before number `at`.

    lasting: it is called before every later one too, as when a disk is full or gone.
    """

    def __init__(
        self,
        root: Path,
        *,
        at: int | None = None,
        strike: Callable[[Call], None] = lambda call: None,
        lasting: bool = False,
        exchange: bool = True,
    ) -> None:
        self.root, self.at, self.strike, self.lasting = root, at, strike, lasting
        self.calls: list[Call] = []
        self._real: dict[str, Any] = {}
        self._exchange = files._exchange
        self._can_exchange = exchange

    def __enter__(self) -> Disk:
        replaced = {
            "open": self._open,
            "write": self._write,
            "fsync": self._fsync,
            "mkdir": self._simple("mkdir"),
            "unlink": self._simple("unlink"),
            "rmdir": self._simple("rmdir"),
            "rename": self._moving("rename"),
            "replace": self._moving("replace"),
        }
        self._real = {name: getattr(os, name) for name in replaced}
        for name, function in replaced.items():
            setattr(os, name, function)
        files._exchange = self._exchanging  # type: ignore[assignment]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)
        files._exchange = self._exchange

    def _path(self, path: Any, dir_fd: int | None = None) -> str | None:
        """Relative to the root; None for what lies elsewhere."""
        if isinstance(path, int):
            whole = Path(f"/proc/self/fd/{path}").readlink()
        else:
            base = "" if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
            whole = Path(base, os.fsdecode(path))
        if not whole.is_relative_to(self.root):
            return None
        return whole.relative_to(self.root).as_posix()

    def _record(self, call: Call) -> None:
        number = len(self.calls)
        self.calls.append(call)
        if self.at is not None and (number == self.at or (self.lasting and number > self.at)):
            self.strike(call)

    def _simple(self, name: str) -> Callable[..., Any]:
        def called(path: Any, *arguments: Any, dir_fd: int | None = None) -> Any:
            where = self._path(path, dir_fd)
            if where is not None:
                self._record(Call(name, where))
            return self._real[name](path, *arguments, dir_fd=dir_fd)

        return called

    def _moving(self, name: str) -> Callable[..., Any]:
        def called(a: Any, b: Any) -> Any:
            self._record(Call("rename", str(self._path(a)), str(self._path(b))))
            return self._real[name](a, b)

        return called

    def _exchanging(self, a: Path, b: Path) -> bool:
        if not self._can_exchange:
            return False
        self._record(Call("exchange", str(self._path(a)), str(self._path(b))))
        return self._exchange(a, b)

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        where = self._path(path, dir_fd)
        if where is not None and flags & _CHANGING:
            self._record(Call("create", where))
        return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))

    def _write(self, descriptor: int, data: Any) -> int:
        where = self._path(descriptor)
        if where is None:
            return int(self._real["write"](descriptor, data))
        piece = bytes(data[:PIECE])
        self._record(Call("write", where, data=piece))
        return int(self._real["write"](descriptor, piece))

    def _fsync(self, descriptor: int) -> None:
        where = self._path(descriptor)
        if where is None:
            return self._real["fsync"](descriptor)
        return self._record(Call("fsync", where))


def raising(number: int, *, spare: tuple[str, ...] = ()) -> Callable[[Call], None]:
    """A strike that fails with this errno, except in calls named in `spare`."""

    def strike(call: Call) -> None:
        if call.name not in spare:
            raise OSError(number, os.strerror(number))

    return strike


def dying(call: Call) -> None:
    """A strike that ends the process like SIGKILL: nothing is tidied."""
    os._exit(KILLED)


@dataclass(eq=False)
class Node:
    """A file or folder as the system sees it, and as much of it as is safe on the disk."""

    data: bytes | None = None
    entries: dict[str, Node] = field(default_factory=dict)
    safe_data: bytes = b""
    safe_entries: dict[str, Node] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Node:
        """What stands at `path`, all of it safe."""
        if path.is_file():
            data = path.read_bytes()
            return cls(data=data, safe_data=data)
        entries = {p.name: cls.read(p) for p in path.iterdir()}
        return cls(entries=entries, safe_entries=dict(entries))

    def sync(self) -> None:
        """Make the data, or the names, safe."""
        if self.data is None:
            self.safe_entries = dict(self.entries)
        else:
            self.safe_data = self.data


def as_seen(node: Node) -> tuple[bytes | None, dict[str, Node]]:
    """The process was killed: what the system holds in memory still reaches the disk."""
    return node.data, node.entries


def names_first(node: Node) -> tuple[bytes | None, dict[str, Node]]:
    """The power went: names had reached the disk at once, data only where it was synced."""
    return None if node.data is None else node.safe_data, node.entries


def synced_only(node: Node) -> tuple[bytes | None, dict[str, Node]]:
    """The power went: names had reached the disk only where the folder was synced, too."""
    return None if node.data is None else node.safe_data, node.safe_entries


def removals_first(node: Node) -> tuple[bytes | None, dict[str, Node]]:
    """The power went: what was removed is gone, what was added or renamed and not synced is not."""
    here = set(map(id, node.entries.values()))
    kept = {
        name: n for name, n in node.safe_entries.items() if name in node.entries or id(n) in here
    }
    return None if node.data is None else node.safe_data, kept


WORLDS = (as_seen, names_first, synced_only, removals_first)


class Replay:
    """Recorded calls carried out on a disk in memory, one by one."""

    def __init__(self, before: Path) -> None:
        self.root = Node.read(before)

    def _find(self, path: str) -> tuple[dict[str, Node], str]:
        *above, name = path.split("/")
        folder = self.root
        for part in above:
            folder = folder.entries[part]
        return folder.entries, name

    def _node(self, path: str) -> Node:
        if path == ".":
            return self.root
        entries, name = self._find(path)
        return entries[name]

    def apply(self, call: Call) -> None:
        """Carry out one call."""
        if call.name == "fsync":
            self._node(call.path).sync()
            return
        if call.name == "mkdir" and call.path == ".":
            return
        entries, name = self._find(call.path)
        if call.name == "mkdir":
            entries.setdefault(name, Node())  # as with exist_ok
        elif call.name == "create":
            entries[name] = Node(data=b"")
        elif call.name == "write":
            entries[name].data = (entries[name].data or b"") + call.data
        elif call.name in ("unlink", "rmdir"):
            entries.pop(name, None)
        else:
            others, other = self._find(call.other)
            if call.name == "exchange":
                entries[name], others[other] = others[other], entries[name]
            else:
                others[other] = entries.pop(name)

    def write(self, folder: Path, world: Callable[[Node], Any] = as_seen) -> None:
        """Lay out what a world leaves."""
        _write(self.root, folder, world)


def _write(node: Node, path: Path, world: Callable[[Node], Any]) -> None:
    data, entries = world(node)
    if data is not None:
        path.write_bytes(data)
        return
    path.mkdir()
    for name, below in entries.items():
        _write(below, path / name, world)


def tree(folder: Path) -> Iterator[tuple[str, bytes | None]]:
    """Every name below a folder with its bytes, None for folders."""
    for path in sorted(folder.rglob("*")):
        yield path.relative_to(folder).as_posix(), path.read_bytes() if path.is_file() else None
