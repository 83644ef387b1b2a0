"""Runs a function in several forked processes that know of one another, as a launcher would."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

SECONDS = 100


def together(
    function: Callable[[int], None], folder: Path, *, processes: int = 2, **environment: str
) -> list[str]:
    """What each process printed, by rank; an exception in one is raised here with its traceback.

    Forked, so nothing is imported anew: two processes cost milliseconds, not seconds.
    """
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    children: dict[int, int] = {}
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(processes),
                LOCAL_WORLD_SIZE=str(processes),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
                CUDA_VISIBLE_DEVICES="",
                **environment,
            )
            _be_a_process(function, rank, folder / f"rank-{rank}.txt")
        children[child] = rank
    failed = _wait(children)
    said = [(folder / f"rank-{rank}.txt").read_text("utf-8") for rank in range(processes)]
    assert not failed, "\n".join(said[rank] for rank in failed)
    return said


def _be_a_process(function: Callable[[int], None], rank: int, log: Path) -> None:
    code = 1
    with log.open("w", encoding="utf-8", buffering=1) as file:
        # pytest's capture stays behind in the parent.
        sys.stdout = sys.stderr = file
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        try:
            function(rank)
            code = 0
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
                torch.distributed.destroy_process_group()
        except BaseException:
            traceback.print_exc(file=file)
    os._exit(code)


def _wait(children: dict[int, int]) -> list[int]:
    """Ranks that failed; once one has, the others are ended, as a launcher ends them."""
    failed: list[int] = []
    deadline = time.monotonic() + SECONDS
    left = dict(children)
    while left:
        for child in list(left):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                if status:
                    failed.append(left[child])
                del left[child]
        if left and (failed or time.monotonic() > deadline):
            time.sleep(1.0 if failed else 0.0)  # let the others say what they have to
            for child in left:
                os.kill(child, 9)
                os.waitpid(child, 0)
            return failed or list(left.values())
        time.sleep(0.01)
    return failed
