"""FSDP2: each process keeps a share of every trained tensor (`torch.distributed.fsdp.fully_shard`).

Sharded parameters are DTensors under their own names, so optimizer, guard and checkpoints go on
working by name; the functions here are where a share and a whole tensor have to be told apart.
Run by two CPU processes in the tests; untested on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from latentdiff.errors import UserError

Policy = Callable[[nn.Module], bool]


def shard(
    module: nn.Module, mesh: DeviceMesh, policy: Policy | None, *, reshard: bool = True
) -> None:
    """Shard `module` in place: every part that `policy` names by itself, the rest together.

    Parts are gathered one after the other in the forward and backward pass, so the policy decides
    how much is whole at a time. reshard: give the parts up again after the forward pass.
    """
    scalars = [name for name, p in module.named_parameters() if not p.ndim]
    if scalars:
        raise UserError(
            f"FSDP2 cannot deal out a scalar, and {scalars[0]} is one; train this with DDP"
        )
    parts = [] if policy is None else [m for m in module.modules() if m is not module and policy(m)]
    for part in reversed(parts):  # inner ones first
        fully_shard(part, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(module, mesh=mesh)


def mesh_over_all(device: torch.device, count: int) -> DeviceMesh:
    """One dimension over all processes."""
    return init_device_mesh(device.type, (count,))


def by_class(names: Iterable[str]) -> Policy:
    """Parts of these classes, such as BasicTransformerBlock."""
    wanted = frozenset(names)
    return lambda module: type(module).__name__ in wanted


def by_size(parameters: int) -> Policy:
    """The smallest parts of at least this many parameters."""

    def policy(module: nn.Module) -> bool:
        def big(part: nn.Module) -> bool:
            return sum(p.numel() for p in part.parameters()) >= parameters

        return big(module) and not any(big(child) for child in module.children())

    return policy


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has been here."""
    return isinstance(module, FSDPModule)


def check_names(module: nn.Module, names: Iterable[str]) -> None:
    """UserError when a class that the launcher's config names is not in the module."""
    there = {type(part).__name__ for part in module.modules()}
    missing = sorted(set(names) - there)
    if missing:
        raise UserError(
            f"fsdp_transformer_layer_cls_to_wrap names {', '.join(missing)}, which the module does "
            "not hold; name one of its classes, or use fsdp_auto_wrap_policy SIZE_BASED_WRAP"
        )


def is_share(tensor: Tensor) -> bool:
    """Whether other processes hold other parts of this tensor."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, on every process (so all must ask); others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's share of a sharded tensor; others as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def share_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every process, laid out as `like` is."""
    if not isinstance(like, DTensor):
        return value
    # src_data_rank None: each process cuts its share from its own copy, without a word exchanged.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
