"""Who trains: processes, device, threads and precision, settled and printed before anything else.

accelerate starts the processes and knows the backend. What it does not do is complain when the
launcher started several processes that each believe they are alone: that is refused here.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from latentdiff.errors import UserError
from latentdiff.training.config import TrainConfig

_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


@dataclass(frozen=True)
class Processes:
    """This process among the others, and how it computes."""

    accelerator: Accelerator
    dtype: torch.dtype | None
    """Autocast type of the forward pass, or None for none."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device(self.accelerator.device)

    @property
    def count(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return int(self.accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process writes, draws and prints."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's precision."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def describe(self) -> str:
        """One line: processes, backend, device, threads, precision."""
        backend = "no backend"
        if self.count > 1:
            backend = f"backend {torch.distributed.get_backend()}"
        where = str(self.device)
        if self.device.type == "cuda":
            where += f" ({torch.cuda.get_device_name(self.device)})"
        precision = "float32" if self.dtype is None else f"{self.dtype} autocast".split(".")[-1]
        plural = "process" if self.count == 1 else "processes"
        return (
            f"{self.count} {plural}, {backend}, device {where}, "
            f"{torch.get_num_threads()} threads each, {precision}, torch {torch.__version__}"
        )


def start(config: TrainConfig) -> Processes:
    """Join the other processes, settle device, threads and precision; refuse what cannot be.

    Raises UserError when the launcher's WORLD_SIZE and the processes that found each other differ.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but torch finds no CUDA device; use --device cpu or auto")
    # Precision is this loop's own autocast, so that the module's forward stays unpatched.
    accelerator = Accelerator(mixed_precision="no", cpu=config.device == "cpu")
    check_world(wanted, accelerator.num_processes)
    if accelerator.distributed_type not in _SUPPORTED:
        raise UserError(
            f"the launcher asks for {accelerator.distributed_type.value}; "
            "one process, multi-CPU and multi-GPU (DDP) are supported"
        )
    device = torch.device(accelerator.device)
    if config.device == "cpu" and device.type != "cpu":
        raise UserError(f"device is cpu, but this process already computes on {device}")
    _set_threads(config, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where autocast does not reach
        torch.backends.cudnn.benchmark = True
    return Processes(accelerator=accelerator, dtype=_precision(config, device))


def check_world(wanted: int, found: int) -> None:
    """Refuse processes that each believe they are alone and would share one run folder."""
    if wanted != found:
        raise UserError(
            f"the launcher started {wanted} processes (WORLD_SIZE), but this one is in a group of "
            f"{found}; on CPU launch with ACCELERATE_USE_CPU=true accelerate launch --multi_gpu "
            f"--num_processes {wanted} -m …"
        )


def _set_threads(config: TrainConfig, device: torch.device) -> None:
    """Undo the launcher's OMP_NUM_THREADS=1 on CPU: share the cores among local processes."""
    if config.threads:
        torch.set_num_threads(config.threads)
        return
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "LOCAL_WORLD_SIZE" in os.environ
    if device.type == "cpu" and launched and os.environ.get("OMP_NUM_THREADS") == "1":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, cores() // local))


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _precision(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    asked = config.mixed_precision
    if asked == "auto":
        launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if launcher not in ("no", "bf16"):
            raise UserError(f"the launcher asks for {launcher}; bf16 and no are supported")
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
        asked = "bf16" if launcher == "bf16" or on_gpu else "no"
    return torch.bfloat16 if asked == "bf16" else None
