"""Who trains: processes, device, threads and precision, settled and printed before anything else.

accelerate starts the processes and knows the backend. What it does not do is complain when the
launcher started several processes that each believe they are alone, or when FSDP was asked for
where it cannot be (on a CPU it becomes plain data parallelism): that is refused here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy

from latentdiff import devices
from latentdiff.data.cache.build import Team
from latentdiff.errors import UserError
from latentdiff.training import sharding
from latentdiff.training.optimizers.guarded_step import trained_parameters
from latentdiff.training.run import peers
from latentdiff.training.train_config import TrainConfig

_SUPPORTED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.FSDP,
)


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

    @property
    def sharded(self) -> bool:
        """Whether trained tensors are dealt out to the processes (FSDP2)."""
        return bool(self.accelerator.distributed_type == DistributedType.FSDP)

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's precision."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def shard(self, module: nn.Module) -> None:
        """Under FSDP, deal the module's tensors out, in place; before an optimizer sees them."""
        if not self.sharded:
            return
        plugin: Any = self.accelerator.state.fsdp_plugin
        names = plugin.transformer_cls_names_to_wrap or ()
        policy = None
        if plugin.min_num_params:
            policy = sharding.by_size(int(plugin.min_num_params))
        elif names:
            sharding.check_names(module, names)
            policy = sharding.by_class(names)
        mesh = sharding.mesh_over_all(self.device, self.count)
        sharding.shard(module, mesh, policy, reshard=bool(plugin.reshard_after_forward))

    def wrap(self, module: nn.Module) -> nn.Module:
        """What the loop calls instead of the module: DDP's, where there are several processes."""
        if self.count == 1 or sharding.is_sharded(module):
            return module
        wrapped: nn.Module = self.accelerator.prepare_model(module)
        return wrapped

    @contextmanager
    def accumulating(self, model: nn.Module, *, last: bool) -> Iterator[None]:
        """One micro-batch; gradients are exchanged after the last one only."""
        if isinstance(model, sharding.FSDPModule):
            model.set_requires_gradient_sync(last)
            yield
        else:
            with nullcontext() if last else self.accelerator.no_sync(model):
                yield

    def team(self) -> Team:
        """All processes, for work on files that they share out; all of them must ask."""
        token = [Team().token]
        if self.count > 1:
            torch.distributed.broadcast_object_list(token, src=0)
        return Team(self.rank, self.count, token[0])

    def check_same_weights(self, module: nn.Module) -> None:
        """Refuse to go on when the processes' weights are not the same bits (all must ask)."""
        if self.count == 1 or sharding.is_sharded(module):
            return
        sums = [p.detach().view(torch.int32).sum() for p in trained_parameters(module).values()]
        mine = torch.stack(sums)
        low, high = mine.clone(), mine.clone()
        torch.distributed.all_reduce(low, torch.distributed.ReduceOp.MIN)
        torch.distributed.all_reduce(high, torch.distributed.ReduceOp.MAX)
        if not torch.equal(low, high):
            names = [
                n for n, ok in zip(trained_parameters(module), low == high, strict=True) if not ok
            ]
            raise AssertionError(
                f"the {self.count} processes no longer have the same weights: {len(names)} tensors "
                f"differ, the first is {names[0]}; nothing was saved"
            )

    def check_same(self, what: str, value: str) -> None:
        """UserError when the processes do not all see the same, each machine its own copy, say."""
        if self.count == 1:
            return
        found: list[str] = [""] * self.count
        torch.distributed.all_gather_object(found, value)
        others = [rank for rank, theirs in enumerate(found) if theirs != found[0]]
        if others:
            raise UserError(
                f"{what} differ between process 0 and process {others[0]} "
                f"({found[0][:12]}… and {found[others[0]][:12]}…); every machine needs the same"
            )

    def describe(self) -> str:
        """One line: processes, backend, device, threads, precision."""
        backend = "no backend"
        if self.count > 1:
            backend = f"backend {torch.distributed.get_backend()}"
        if self.sharded:
            backend += ", FSDP2"
        where = "cpu" if self.device.type == "cpu" else str(self.device)
        if self.device.type == "cuda":
            where += f" ({torch.cuda.get_device_name(self.device)})"
        precision = "float32" if self.dtype is None else f"{self.dtype} autocast".split(".")[-1]
        plural = "process" if self.count == 1 else "processes"
        count = torch.get_num_threads()
        threads = f"{count} thread{'' if count == 1 else 's'}{' each' if self.count > 1 else ''}"
        return (
            f"{self.count} {plural}, {backend}, device {where}, "
            f"{threads}, {precision}, torch {torch.__version__}"
        )


def start(config: TrainConfig) -> Processes:
    """Join the other processes, settle device, threads and precision; refuse what cannot be.

    Raises UserError when the launcher's WORLD_SIZE and the processes that found each other differ,
    and when FSDP was asked for and is not what came.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    refuse_absent(config)
    # Told outright: where no accelerator is, accelerate does not conclude that a CPU is meant.
    on_cpu = config.device == "cpu" or not torch.accelerator.is_available()
    _refuse_fsdp_on_cpu(on_cpu)
    # Precision is this loop's own autocast, so that the module's forward stays unpatched.
    accelerator = Accelerator(
        mixed_precision="no",
        cpu=on_cpu,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=config.timeout_minutes))],
    )
    check_world(wanted, accelerator.num_processes)
    check_type(accelerator, config)
    device = torch.device(accelerator.device)
    if config.device == "cpu" and device.type != "cpu":
        raise UserError(f"device is cpu, but this process already computes on {device}")
    if accelerator.num_processes > 1:
        peers.introduce(accelerator.num_processes)
    _set_threads(config, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where autocast does not reach
        torch.backends.cudnn.benchmark = True
    return Processes(
        accelerator=accelerator, dtype=devices.autocast_dtype(config.mixed_precision, device)
    )


def check_world(wanted: int, found: int) -> None:
    """Refuse processes that each believe they are alone and would share one run folder."""
    if wanted != found:
        raise UserError(
            f"the launcher started {wanted} processes (WORLD_SIZE), but this one is in a group of "
            f"{found}; on CPU launch with ACCELERATE_USE_CPU=true accelerate launch --multi_gpu "
            f"--num_processes {wanted} -m …"
        )


def fsdp_asked() -> bool:
    """Whether the launcher's config asks for FSDP, whatever comes of it."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")


def _refuse_fsdp_on_cpu(on_cpu: bool) -> None:
    if fsdp_asked() and (on_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"):
        raise UserError(
            "the launcher asks for FSDP on a CPU, where accelerate silently makes it plain data "
            "parallelism; launch with the config cpu2 (latentdiff info --accelerate-config cpu2)"
        )


def check_type(accelerator: Accelerator, config: TrainConfig) -> None:
    """One process, DDP, or FSDP2 with nothing that is not supported beside it."""
    kind = accelerator.distributed_type
    if kind not in _SUPPORTED:
        raise UserError(
            f"the launcher asks for {kind.value}; one process, multi-CPU, multi-GPU (DDP) and "
            "FSDP2 are supported"
        )
    if fsdp_asked() and kind != DistributedType.FSDP:
        raise UserError(
            f"the launcher asks for FSDP (ACCELERATE_USE_FSDP), but what came is {kind.value}; "
            "FSDP takes two processes or more, launched with the config fsdp2"
        )
    if kind != DistributedType.FSDP:
        return
    plugin: Any = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise UserError("the launcher asks for FSDP version 1; set fsdp_version: 2 in its config")
    refused = {
        "fsdp_offload_params": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        "fsdp_activation_checkpointing": bool(plugin.activation_checkpointing),
        "compile": bool(config.compile),
        "channels_last": config.channels_last,
        f"optimizer {config.optimizer}": config.optimizer != "adamw",
    }
    if any(refused.values()):
        names = ", ".join(name for name, asked in refused.items() if asked)
        raise UserError(f"not supported together with FSDP2: {names}; leave it out, or use DDP")


def _set_threads(config: TrainConfig, device: torch.device) -> None:
    """Undo the launcher's OMP_NUM_THREADS=1 on CPU: share the cores among local processes."""
    if config.threads:
        torch.set_num_threads(config.threads)
        return
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "LOCAL_WORLD_SIZE" in os.environ
    if device.type == "cpu" and launched and os.environ.get("OMP_NUM_THREADS") == "1":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, devices.cores() // local))


def refuse_absent(config: TrainConfig) -> None:
    """UserError for a device or a precision that this machine does not have."""
    found = devices.find_device(config.device)
    if found.type == "cpu":
        devices.autocast_dtype(config.mixed_precision, found)


def ema_device(config: TrainConfig, processes: Processes) -> torch.device | None:
    """Where the averaged weights lie; None is where the module is."""
    if config.ema_device == "auto":
        return torch.device("cpu") if processes.sharded else None
    try:
        device = torch.device(config.ema_device)
    except RuntimeError:
        raise UserError(
            f"ema_device is {config.ema_device}, expected auto, cpu or cuda:1"
        ) from None
    if not devices.has_device(device.type):
        raise UserError(
            f"ema_device is {config.ema_device}, but torch finds no {device.type.upper()} device"
        )
    if device.type == "cuda" and device.index is None:
        return processes.device
    return device
