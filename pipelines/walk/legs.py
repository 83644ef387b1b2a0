"""The walk of a batch in legs: each a denoiser, a scheduler and the steps to take with them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from latentdiff.conditioning.guidance import Predict
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError
from latentdiff.sampling import ContextAt, DenoisingStep, Noise, denoise
from latentdiff.schedulers.protocol import Scheduler

After = Callable[[int, Tensor], Tensor]
"""(place in the leg's steps, x after that step) → the x to go on with."""


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A part of a walk that one scheduler makes.

    context: what the denoiser is told. after: may replace x after every step. channels: how many of
    a sample's channels are the picture's; EDICT walks two samples side by side.
    """

    denoiser: Predict
    scheduler: Scheduler
    context: Tensor | ContextAt
    steps: tuple[Step, ...]
    after: After | None = None
    channels: int | None = None


def walk(
    x: Tensor, legs: Sequence[Leg], noise: Noise
) -> Generator[DenoisingStep, Tensor | None, None]:
    """Walk x (B, C, h, w) along the legs, one after another, counting their steps through.

    A tensor that is sent back takes the place of the step's x.
    """
    total, done = sum(len(leg.steps) for leg in legs), 0
    for leg in legs:
        steps = denoise(
            leg.denoiser, leg.scheduler, x, context=leg.context, noise=noise, steps=leg.steps
        )
        sent: Tensor | None = None
        while True:
            # Not held across a yield: the caller's own code between steps keeps its gradients.
            with torch.no_grad():
                step = advance(steps, sent)
                if step is None:
                    break
                x = step.x if leg.after is None else leg.after(step.index, step.x)
            changed = yield replace(step, index=done, total=total, x=x[:, : leg.channels])
            done += 1
            if changed is not None:
                own = _changed(changed, x[:, : leg.channels])
                x = own.repeat(1, x.shape[1] // own.shape[1], 1, 1)
            sent = x if changed is not None or leg.after is not None else None


S = TypeVar("S")


def advance(steps: Generator[S, Tensor | None, None], sent: Tensor | None) -> S | None:
    """The next step of a walk that is handed `sent`; None at its end."""
    try:
        return steps.send(sent)
    except StopIteration:
        return None


def _changed(latents: Tensor, x: Tensor) -> Tensor:
    """Latents from outside, as the walk needs them."""
    if latents.shape != x.shape:
        raise UserError(
            f"the callback gave latents of shape {tuple(latents.shape)}; expected {tuple(x.shape)}"
        )
    return latents.to(device=x.device, dtype=x.dtype)
