"""When a process of several dies, the others notice as a broken connection: say which, in one line.

The processes tell one another their machine and number when they start. Whoever then loses a
connection looks which of those on its own machine are no more.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from pathlib import Path

_LOST = re.compile(
    r"connection (closed|reset|refused)|broken pipe|socket closed|timed out|remote process exited"
    r"|recvvalue failed|heartbeat|nccl",
    re.IGNORECASE,
)
_LOOK_SECONDS = 3.0
"""A process that dies is looked for this long: the connection may break before it is gone."""

_MEMBERS: list[tuple[str, int]] = []


def introduce(count: int) -> None:
    """Tell all processes of the group this one's machine and number; all of them must call."""
    import torch

    found: list[tuple[str, int]] = [("", 0)] * count
    torch.distributed.all_gather_object(found, (platform.node(), os.getpid()))
    _MEMBERS[:] = found


def explain(error: BaseException) -> str | None:
    """One line for an error that came of another process's end; None for any other error."""
    if len(_MEMBERS) < 2 or not isinstance(error, RuntimeError) or not _LOST.search(str(error)):
        return None
    dead = _wait_for_the_dead()
    if dead:
        who = f"process {dead[0]} of {len(_MEMBERS)} has ended (pid {_MEMBERS[dead[0]][1]})"
    else:
        who = f"the connection to another of the {len(_MEMBERS)} processes has broken"
    return (
        f"{who}, so this one ends too; why is in that process's own output. The same command with "
        "--resume goes on from the newest checkpoint"
    )


def _wait_for_the_dead() -> list[int]:
    """Ranks on this machine whose processes are no more."""
    until = time.monotonic() + _LOOK_SECONDS
    while True:
        dead = [
            rank
            for rank, (node, pid) in enumerate(_MEMBERS)
            if node == platform.node() and not alive(pid)
        ]
        if dead or time.monotonic() > until:
            return dead
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and was not collected does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    if sys.platform != "linux":
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return False
    return state[0] not in ("Z", "X")
