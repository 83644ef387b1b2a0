"""Work on untrusted bytes in processes that may hang, swell or die without harm.

Each worker is a fresh interpreter that runs one function, bytes -> bytes, under a limit of memory.
The parent reads, sends, and waits: a worker that takes too long is killed, one that died is
replaced, and in both cases it is that item's `Failure` and nobody else's. Only raw bytes go
between them, nothing is unpickled.

Workers do not hear Ctrl-C, which is the parent's to handle, and end, without a word, when it does.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

MEMORY = 512 << 20


@dataclass(frozen=True)
class Failure:
    """What became of an item that gave no answer; code: "time", "memory" or "crashed"."""

    code: str
    reason: str


def default_workers() -> int:
    """One for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def guarded_map(
    function: str,
    items: Iterable[tuple[int, bytes]],
    *,
    workers: int,
    seconds: float,
    memory: int = MEMORY,
) -> Iterator[tuple[int, bytes | Failure]]:
    """Yield (key, answer) for each (key, bytes), in the order in which answers come.

    function: "module:name" of a function bytes -> bytes; what it raises counts as a crash. Items
    are taken one at a time, when a worker is free. seconds: for one item, on the wall. memory:
    bytes that the function may take on top of what a worker needs to stand there (Linux).
    """
    pending = iter(items)
    free = [_Worker(function, memory) for _ in range(workers)]
    busy: list[_Worker] = []
    try:
        more = True
        while more or busy:
            while more and free:
                item = next(pending, None)
                if item is None:
                    more = False
                    break
                worker = free.pop()
                worker.send(*item, seconds)
                busy.append(worker)
            if not busy:
                break
            first = min(worker.deadline for worker in busy)
            ready = wait([w.pipe for w in busy], max(0.0, first - time.monotonic()))
            for worker in [w for w in busy if w.pipe in ready or w.deadline <= time.monotonic()]:
                answer = worker.answer(seconds) if worker.pipe in ready else worker.late(seconds)
                busy.remove(worker)
                free.append(worker)
                yield worker.key, answer
    finally:
        for worker in (*free, *busy):
            worker.stop()


class _Worker:
    """One process and the parent's end of its pipe; started when it first has work."""

    def __init__(self, function: str, memory: int) -> None:
        self.function, self.memory = function, memory
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection
        self.key = -1
        self.deadline = 0.0

    def start(self) -> None:
        ours, theirs = Pipe()
        number = theirs.fileno()
        # -P: a module of the same name in the user's folder must not be imported instead.
        command = [sys.executable, "-P", "-m", __name__, self.function, str(number)]
        try:
            self.process = subprocess.Popen(
                [*command, str(self.memory)],
                pass_fds=(number,),
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C in a terminal is not for it, from its first moment on
            )
        finally:
            theirs.close()
        self.pipe = ours
        # The first answer says that it stands: imports must not count as an item's time.
        if not ours.poll(60) or ours.recv_bytes() != b"ready":
            self.stop()
            raise RuntimeError(f"a worker process for {self.function} does not start")

    def send(self, key: int, data: bytes, seconds: float) -> None:
        if self.process is not None and self.process.poll() is not None:
            self.stop()  # it died between two items
        if self.process is None:
            self.start()
        self.key = key
        # A worker that dies while it reads is found out by `answer`.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send_bytes(data)
        self.deadline = time.monotonic() + seconds

    def answer(self, seconds: float) -> bytes | Failure:
        try:
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            assert self.process is not None
            code = self.process.wait()
            self.stop()
            if code == _OUT_OF_MEMORY:
                return Failure("memory", f"it takes more than {self.memory >> 20} MB to decode")
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Failure("crashed", f"it ends the decoder's process ({name})")

    def late(self, seconds: float) -> Failure:
        self.stop()
        return Failure("time", f"it takes longer than {seconds:g} s to decode")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.pipe.close()
            self.process = None


_OUT_OF_MEMORY = 77


def _limit_memory(extra: int) -> None:
    """Allow this process `extra` bytes more than it has now; where the system knows how."""
    with contextlib.suppress(ImportError, OSError, ValueError, StopIteration):
        import resource

        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
            line = next(line for line in status if line.startswith("VmData:"))
        limit = int(line.split()[1]) * 1024 + extra
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _work(function: Callable[[bytes], bytes], pipe: Connection) -> int:
    """Answer until the parent goes; returns the exit code."""
    pipe.send_bytes(b"ready")
    while True:
        try:
            data = pipe.recv_bytes()
        except (EOFError, OSError):  # OSError: the parent was killed with bytes on their way
            return 0
        try:
            answer = function(data)
        except MemoryError:
            return _OUT_OF_MEMORY
        pipe.send_bytes(answer)


def _main(argv: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    module, _, name = argv[0].partition(":")
    function = getattr(importlib.import_module(module), name)
    _limit_memory(int(argv[2]))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        return _work(function, Connection(int(argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
