"""One forward and backward pass under observation: where numbers first stop being finite.

Every module's outputs are looked at as they are made, and their gradients as they come back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Phase = Literal["input", "forward", "backward", "weights"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One tensor that was looked at, in the order in which the pass made it."""

    phase: Phase
    """input: of the batch; forward: a module's output; backward: the gradient that reached a
    module's output; weights: a parameter's gradient."""
    module: str
    """Name in the module tree, of the batch's tensor, or of the parameter."""
    kind: str
    """The module's class."""
    shape: tuple[int, ...]
    largest: float
    """Largest magnitude among the finite values."""
    bad: int
    """Values that are not finite."""

    def line(self) -> str:
        """One row of the table."""
        state = f"{self.bad:,} of {_count(self.shape):,} not finite" if self.bad else "finite"
        shape = "×".join(map(str, self.shape)) or "scalar"
        name = f"{self.module or '(the loss)'} ({self.kind})" if self.kind else self.module
        if len(name) > _WIDTH:
            name = f"{name[:20]}…{name[21 - _WIDTH :]}"
        return f"{self.phase:<9} {name:<{_WIDTH}} {shape:<18} {self.largest:>10.3g}  {state}"


_WIDTH = 64
"""Of a module's name; the middle of a longer one is left out."""
HEADER = f"{'pass':<9} {'module':<{_WIDTH}} {'shape':<18} {'largest':>10}  state"


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What one pass showed."""

    precision: str
    loss: float
    events: tuple[Event, ...]

    @property
    def first(self) -> Event | None:
        """The first tensor with a non-finite value."""
        return next((event for event in self.events if event.bad), None)

    def explain(self) -> str:
        """One line: what is to blame, as far as one pass can tell."""
        first = self.first
        if first is None:
            return f"in {self.precision} everything is finite (loss {self.loss:.6g})"
        name = f"{first.module or '(the loss)'}" + (f" ({first.kind})" if first.kind else "")
        return {
            "input": f"the batch itself: {first.bad:,} values of its tensor {name} are not finite",
            "forward": f"the output of {name} is the first that is not finite, in the forward pass",
            "backward": f"the gradient that reaches the output of {name} is the first that is not "
            "finite, in the backward pass: what takes that output made it",
            "weights": f"the gradient of {name} is not finite, though all that reached it is",
        }[first.phase]


def replay(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    loss_scale: float = 1.0,
) -> Replay:
    """Run `batch` forward and backward through `module` and look at everything on the way.

    dtype: autocast type, or None for the weights' own precision. Gradients are cleared before and
    after; weights are not touched.
    """
    device = next(module.parameters()).device
    there = {name: tensor.to(device) for name, tensor in batch.items()}
    events = [_event("input", name, "", tensor) for name, tensor in there.items()]
    autocast = torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()
    module.zero_grad(set_to_none=True)
    with _uncompiled(module), _watched(module, events):
        with autocast:
            loss = module(there)["loss"]
        (loss * loss_scale).backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            events.append(_event("weights", name, "", parameter.grad))
    module.zero_grad(set_to_none=True)
    precision = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    return Replay(precision=precision, loss=float(loss.detach()), events=tuple(events))


def sample_losses(module: nn.Module, batch: Mapping[str, Tensor]) -> list[float] | None:
    """Each sample's loss alone, in the weights' own precision; None where that cannot be."""
    device = next(module.parameters()).device
    count = min((len(tensor) for tensor in batch.values() if tensor.ndim), default=0)
    losses = []
    with torch.no_grad(), _uncompiled(module):
        for k in range(count):
            one = {n: t[k : k + 1].to(device) if t.ndim else t for n, t in batch.items()}
            try:
                losses.append(float(module(one)["loss"]))
            except (ValueError, RuntimeError):  # a loss over several samples, batch statistics
                return None
    return losses


@contextlib.contextmanager
def _uncompiled(module: nn.Module) -> Iterator[None]:
    """Hooks inside a compiled module would not be called."""
    compiled, module._compiled_call_impl = module._compiled_call_impl, None
    try:
        yield
    finally:
        module._compiled_call_impl = compiled


@contextlib.contextmanager
def _watched(module: nn.Module, events: list[Event]) -> Iterator[None]:
    seen: set[str] = set()  # gradient checkpointing runs a module forward a second time

    def watch(name: str) -> Any:
        def hook(part: nn.Module, _: Any, output: Any) -> None:
            kind = type(part).__name__
            for tensor in _tensors(output):
                if name not in seen:
                    events.append(_event("forward", name, kind, tensor))
                if tensor.requires_grad:
                    tensor.register_hook(
                        lambda grad: events.append(_event("backward", name, kind, grad))
                    )
            seen.add(name)

        return hook

    handles = [part.register_forward_hook(watch(name)) for name, part in module.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from _tensors(inner)


@torch.no_grad()
def _event(phase: Phase, name: str, kind: str, tensor: Tensor) -> Event:
    shape = tuple(tensor.shape)
    values = tensor.detach().float()
    finite = torch.isfinite(values)
    largest = torch.where(finite, values, 0.0).abs().max() if values.numel() else 0.0
    return Event(
        phase=phase,
        module=name,
        kind=kind,
        shape=shape,
        largest=float(largest),
        bad=int((~finite).sum()),
    )


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
