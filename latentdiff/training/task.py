"""What the training loop needs to know about the thing it trains, and nothing more.

A task owns the network, the data and the objective; the loop owns time, order, precision, the
optimizer and the disk. Tasks satisfy the protocol by shape: they need not inherit from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

    from latentdiff.training.context import RunContext
    from latentdiff.training.paired_losses import PairedLosses

Batch = dict[str, "torch.Tensor"]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A contact sheet of pictures, in rows, with the prompt and the command of each, and where it
    stands on the sheet: left, top, right, bottom."""

    image: Image.Image
    prompts: tuple[str, ...]
    commands: tuple[str, ...]
    boxes: tuple[tuple[int, int, int, int], ...]


@runtime_checkable
class Task(Protocol):
    """One trainable objective: a module, its batches, and what to show of it.

    Attributes:
        name: a short word for logs and default folders, such as "vae".
        module: maps a batch on the device to {"loss": scalar, metric: scalar, ...}. Metrics are
            detached scalars. Parameters that should be trained require grad, all others do not.
            The loop moves it, runs it under autocast, may compile it and may wrap it for several
            processes. It is deep-copied once for the averaged weights (frozen parameters are
            shared), so it holds no open files.

    It is built, from a config and a `RunContext`, once its run has processes, lock and folder.
    A task whose module depends on its data has `keep_parts(folder)`: it writes what the module can
    be built from again without them, which a replay finds in `RunContext.kept`.
    A task whose export may be written while training goes on has `exporter(module)`: what writes it
    into an empty folder, in another thread, without asking the data or drawing random numbers.
    A task may also have `summary` (what it learns from, plain values for data.json and the report)
    and `fingerprint` (a string that must be the same on every process and when a run is resumed).
    """

    @property
    def name(self) -> str: ...

    @property
    def module(self) -> nn.Module: ...

    def open_data(self, context: RunContext) -> None:
        """List, measure and cache what is learnt from; all processes call it together.

        A dry run and a replay do without it, so the module is there before.
        """
        ...

    def batch(self, positions: Sequence[int]) -> Batch:
        """CPU tensors, leading dimension len(positions).

        A position counts samples since the run began (over all processes), and is the only
        address: the result is a pure function of (run seed, positions). Called in data-loader
        workers.
        """
        ...

    def prepare(self, device: torch.device) -> None:
        """Move frozen parts outside `module` to the device; called before the first step."""
        ...

    def validate(self, module: Any, step: int) -> dict[str, float] | PairedLosses:
        """Numbers worth a curve, or losses of fixed pairs that are compared with the first.

        `module` has the averaged weights, in eval mode, without grad.
        """
        ...

    def sheet(self, module: Any, step: int) -> Image.Image | Sheet | None:
        """A picture worth a look, or None; same module as `validate`."""
        ...

    def export(self, module: Any, folder: Path) -> None:
        """Write the weights in the library's own layout into an empty folder."""
        ...

    def initialise(self, folder: Path) -> None:
        """Load starting weights (no optimizer state) from what `export` wrote; strict."""
        ...
