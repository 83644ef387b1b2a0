"""The process of one entrant: `python -m latentdiff.bench.worker PACKAGE.MODULE:FUNCTION`.

Its first line on standard input holds the function's settings; the function makes what does the
work. Each further line asks for a turn. Every answer is a line of JSON on standard output; whatever
the libraries print goes to standard error.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


def peak_bytes() -> int:
    """The most memory that this process has held."""
    # ru_maxrss would count what the parent held when it started this process.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Answer until nobody asks."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps({**found, "peak": peak_bytes()}) + "\n")
        answers.flush()

    module, _, function = sys.argv[1].partition(":")
    settings = json.loads(sys.stdin.readline())
    work = getattr(importlib.import_module(module), function)(**settings)
    answer({})
    for line in sys.stdin:
        number = json.loads(line)["turn"]
        gc.collect()
        began, cpu = time.perf_counter(), time.process_time()
        facts = work(number)
        seconds, used = time.perf_counter() - began, time.process_time() - cpu
        answer({"seconds": seconds, "cpu": used, "facts": facts or {}})


if __name__ == "__main__":
    main()
