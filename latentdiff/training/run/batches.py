"""Batches of a run's positions: loaded by workers, in their order, and moved to the device."""

from __future__ import annotations

import itertools
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from latentdiff import seeding
from latentdiff.errors import UserError
from latentdiff.training.positions import Positions
from latentdiff.training.task import Batch, Task


def seed_modules(seed: int, step: int, rank: int) -> None:
    """Whatever a module draws itself (dropout) is addressed by the step too."""
    torch.manual_seed(seeding.key(seed, "module", step, rank) & (2**63 - 1))


class _Endless(Sampler[list[int]]):
    def __init__(self, positions: Positions) -> None:
        self.positions = positions

    def __iter__(self) -> Iterator[list[int]]:
        for step in itertools.count(self.positions.begin_step):
            for micro in range(self.positions.micro_batches):
                yield list(self.positions.micro_batch(step, micro))


class _Batches(Dataset[Any]):
    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, positions: Sequence[int]) -> Batch | UserError:
        # Raised in a worker, it would come back as a page of traceback: it is handed over instead.
        try:
            return self.task.batch(positions)
        except UserError as error:
            return error


def _worker_begins(_: int) -> None:
    # Ctrl-C reaches the whole process group; the trainer ends its workers when it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)


def batches(
    task: Task, positions: Positions, *, num_workers: int, prefetch: int, pin_memory: bool
) -> Iterator[Batch]:
    """Micro-batches for ever, in order; workers call `task.batch` ahead of time.

    A UserError of the task comes through as it was raised.
    """
    loader: DataLoader[Any] = DataLoader(
        _Batches(task),
        sampler=_Endless(positions),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_worker_begins,
        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
    )
    return _whole(iter(loader))  # `iter` starts the workers, now and not at the first batch


def _whole(stream: Iterator[Batch | UserError]) -> Iterator[Batch]:
    for batch in stream:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def shared_memory_free() -> int | None:
    """Bytes free in /dev/shm, through which workers hand over batches; None where there is none."""
    shm = Path("/dev/shm")
    return shutil.disk_usage(shm).free if shm.is_dir() else None


def fit_workers(
    task: Task, positions: Positions, num_workers: int, prefetch: int, free: int | None
) -> tuple[int, int]:
    """(workers, batches ahead) that fit into shared memory; (0, ...) when not even one does.

    A container's /dev/shm may be as small as 64 MB, and a worker that overruns it dies without
    a word of explanation.
    """
    if free is None:
        return num_workers, prefetch
    example = task.batch(list(positions.micro_batch(positions.begin_step, 0)))
    size = sum(t.numel() * t.element_size() for t in example.values())
    room = int(free * 0.8) // max(1, size) - 2  # two are on their way to the device
    workers = max(0, min(num_workers, room))
    return workers, max(1, min(prefetch, room // workers)) if workers else prefetch


def to_device(batch: Batch, device: torch.device, *, channels_last: bool) -> Batch:
    """Move a batch without waiting; 4-D floats take the NHWC layout if asked."""
    moved: dict[str, Tensor] = {}
    for name, tensor in batch.items():
        there = tensor.to(device, non_blocking=True)
        if channels_last and there.ndim == 4 and there.is_floating_point():
            there = there.contiguous(memory_format=torch.channels_last)
        moved[name] = there
    return moved
