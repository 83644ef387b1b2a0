"""Between live objects and checkpoints: names and tensors out, the same bits back in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentdiff.checkpoints.state import TrainState
from latentdiff.checkpoints.store import Checkpoint
from latentdiff.errors import UserError
from latentdiff.training.optimizers.ema import AveragedWeights
from latentdiff.training.optimizers.guarded_step import optimizer_kind, trained_parameters
from latentdiff.training.optimizers.loss_scale import LossScale
from latentdiff.training.sharding import is_share, share_like, whole

Tensors = dict[str, Tensor]
_SCALE = "loss_scale"  # stands where an optimizer slot's name does


def weights(module: nn.Module) -> Tensors:
    """Trained parameters and persistent buffers; frozen parameters are the task's to rebuild."""
    persistent = module.state_dict(keep_vars=True)
    parameters: Tensors = dict(trained_parameters(module))
    buffers = {name: b for name, b in module.named_buffers() if name in persistent}
    return {**parameters, **buffers}


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """`<slot>.<parameter name>`, such as `exp_avg.conv.weight`; whole numbers become tensors."""
    return {
        f"{slot}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in trained_parameters(module).items()
        for slot, value in optimizer.state[parameter].items()
    }


def gathered(tensors: Tensors) -> Tensors:
    """The same, with each sharded tensor whole and on the CPU; so every process has to ask."""
    return {name: whole(t.detach()).cpu() if is_share(t) else t for name, t in tensors.items()}


def capture(
    state: TrainState,
    module: nn.Module,
    averaged: AveragedWeights,
    optimizer: torch.optim.Optimizer,
    loss_scale: LossScale | None = None,
) -> Checkpoint:
    """Everything that resuming needs, as it lies there; under FSDP every process has to ask."""
    scale = {} if loss_scale is None else loss_scale.state()
    return Checkpoint(
        state=state,
        weights=gathered(weights(module)),
        ema=dict(averaged.parameters),
        optimizer={
            **gathered(optimizer_state(module, optimizer)),
            **{f"{_SCALE}.{name}": value for name, value in scale.items()},
        },
    )


def size(checkpoint: Checkpoint) -> int:
    """Bytes of its tensors."""
    parts = (checkpoint.weights, checkpoint.ema, checkpoint.optimizer)
    return sum(t.numel() * t.element_size() for part in parts for t in part.values())


def detached(checkpoint: Checkpoint, ema: Tensors) -> Checkpoint:
    """The same with tensors of its own on the CPU, which training leaves alone; `ema` are those
    already."""
    return Checkpoint(
        state=checkpoint.state,
        weights=_copied(checkpoint.weights),
        ema=ema,
        optimizer=_copied(checkpoint.optimizer),
    )


def _copied(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


@torch.no_grad()
def restore(
    checkpoint: Checkpoint,
    module: nn.Module,
    averaged: AveragedWeights,
    optimizer: torch.optim.Optimizer,
    loss_scale: LossScale | None = None,
) -> None:
    """Put a checkpoint back, strictly: a missing, extra or misshapen tensor is a UserError."""
    copy_strict(checkpoint.weights, weights(module), "weights")
    copy_strict(checkpoint.ema, averaged.parameters, "averaged weights")
    stored = {key.partition(".")[0] for key in checkpoint.optimizer} - {_SCALE}
    if stored and _kind(stored) != optimizer_kind(optimizer):
        raise UserError(
            f"the checkpoint's moments are those of --optimizer {_kind(stored)}; go on with it"
        )
    scale = {k: v for k, v in checkpoint.optimizer.items() if k.partition(".")[0] == _SCALE}
    if loss_scale is not None:  # else the precision has changed, and with it the need of a scale
        loss_scale.restore({key.partition(".")[2]: value for key, value in scale.items()})
    unused = set(checkpoint.optimizer) - set(scale)
    for name, parameter in trained_parameters(module).items():
        slots = [key for key in unused if key.partition(".")[2] == name]
        for key in slots:
            optimizer.state[parameter][key.partition(".")[0]] = _slot(
                checkpoint.optimizer[key], parameter
            )
        unused.difference_update(slots)
    if unused:
        raise UserError(f"the checkpoint's optimizer knows other parameters: {_few(unused)}")


def _kind(slots: set[str]) -> str:
    """The optimizer that keeps these slots of a parameter."""
    if "momentum" in slots:
        return "muon"
    return "adamw" if "exp_avg" in slots else "adamw8bit"


def _slot(value: Tensor, parameter: nn.Parameter) -> Tensor | int:
    """An optimizer slot as the optimizer keeps it."""
    if value.dtype == torch.int64 and not value.ndim:
        return int(value)  # bitsandbytes counts its steps on the host
    if value.shape != parameter.shape or not value.ndim:
        return value.to(parameter.device, copy=True)  # AdamW's step count is a float32 scalar
    if value.dtype != parameter.dtype:
        return value.to(parameter.device, copy=True)
    # Moments keep the parameter's memory layout, and its share.
    value = share_like(value.to(parameter.device), parameter)
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(value)


@torch.no_grad()
def copy_strict(source: Tensors, target: Tensors, what: str) -> None:
    """Copy tensor by tensor; names and shapes must be the same."""
    missing, extra = set(target) - set(source), set(source) - set(target)
    if missing or extra:
        raise UserError(
            f"the checkpoint's {what} do not fit this module: "
            f"missing {_few(missing)}, unexpected {_few(extra)}"
        )
    for name, tensor in target.items():
        if source[name].shape != tensor.shape:
            raise UserError(
                f"the checkpoint's {what} hold {name} as {tuple(source[name].shape)}, "
                f"this module as {tuple(tensor.shape)}"
            )
        tensor.copy_(share_like(source[name].to(tensor.device), tensor))


def _few(names: set[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return (", ".join(listed[:3]) or "none") + more
