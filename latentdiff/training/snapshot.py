"""Between live objects and checkpoints: names and tensors out, the same bits back in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentdiff.checkpoints.folder import Checkpoint
from latentdiff.checkpoints.state import TrainState
from latentdiff.errors import UserError
from latentdiff.training.ema import AveragedWeights
from latentdiff.training.optim import trained_parameters

Tensors = dict[str, Tensor]


def weights(module: nn.Module) -> Tensors:
    """Trained parameters and persistent buffers; frozen parameters are the task's to rebuild."""
    persistent = module.state_dict(keep_vars=True)
    parameters: Tensors = dict(trained_parameters(module))
    buffers = {name: b for name, b in module.named_buffers() if name in persistent}
    return {**parameters, **buffers}


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """`<slot>.<parameter name>`, such as `exp_avg.conv.weight`."""
    return {
        f"{slot}.{name}": value
        for name, parameter in trained_parameters(module).items()
        for slot, value in optimizer.state[parameter].items()
    }


def capture(
    state: TrainState,
    module: nn.Module,
    averaged: AveragedWeights,
    optimizer: torch.optim.Optimizer,
) -> Checkpoint:
    """Everything that resuming needs."""
    return Checkpoint(
        state=state,
        weights=weights(module),
        ema=dict(averaged.parameters),
        optimizer=optimizer_state(module, optimizer),
    )


@torch.no_grad()
def restore(
    checkpoint: Checkpoint,
    module: nn.Module,
    averaged: AveragedWeights,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put a checkpoint back, strictly: a missing, extra or misshapen tensor is a UserError."""
    copy_strict(checkpoint.weights, weights(module), "weights")
    copy_strict(checkpoint.ema, averaged.parameters, "averaged weights")
    unused = set(checkpoint.optimizer)
    for name, parameter in trained_parameters(module).items():
        slots = [key for key in unused if key.partition(".")[2] == name]
        for key in slots:
            value = checkpoint.optimizer[key]
            # Moments keep the parameter's memory layout; the step count is a float32 scalar.
            like = parameter if value.shape == parameter.shape and value.ndim else None
            optimizer.state[parameter][key.partition(".")[0]] = (
                value.to(parameter.device, copy=True)
                if like is None
                else torch.empty_like(like, memory_format=torch.preserve_format).copy_(value)
            )
        unused.difference_update(slots)
    if unused:
        raise UserError(f"the checkpoint's optimizer knows other parameters: {_few(unused)}")


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
        tensor.copy_(source[name])


def _few(names: set[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return (", ".join(listed[:3]) or "none") + more
