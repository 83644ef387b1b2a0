"""The only denoising loop, and where its noise comes from.

It walks from x_T to x_0 by whatever scheduler it is given and yields after every step, so that
progress, previews and stopping early come for free. It does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.conditioning.guidance import Predict
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError
from latentdiff.schedulers.protocol import Scheduler
from latentdiff.seeding import check_image_seed

READ_AT_ONCE = ("cpu",)
"""Kinds of devices on which a number is read without waiting for what was asked before."""
Noise = Callable[[], Tensor]
ContextAt = Callable[[int, int], Tensor]
"""(step 0 … total - 1, total) -> context, for prompts that change on the way."""


@dataclass(frozen=True)
class DenoisingStep:
    """What the loop yields after a step.

    index: 0 … total - 1; t: the timestep the network was told; x: (B, C, h, w), the sample now;
    x_0: the clean latents that the step aimed at. After the last step x is the result; an adaptive
    scheduler may take fewer than `total`.
    """

    index: int
    total: int
    t: int | float
    x: Tensor
    x_0: Tensor


class SeededNoise:
    """One CPU generator a picture: `draw()` gives (B, *shape) float32 standard normal noise.

    Picture k sees `torch.Generator("cpu").manual_seed(seeds[k])` from its start, in order: its
    x_T first, then its step noise. So a seed means the same picture alone, in a batch, on every
    device, and in diffusers with that generator.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        for seed in seeds:
            check_image_seed(seed)
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.shape = tuple(shape)
        self.device = device

    def draw(self) -> Tensor:
        rows = [torch.randn(self.shape, generator=generator) for generator in self.generators]
        drawn = torch.stack(rows)
        if self.device.type != "cuda":
            return drawn.to(self.device)
        return drawn.pin_memory().to(self.device, non_blocking=True)


def denoise(
    denoiser: Predict,
    scheduler: Scheduler,
    x_T: Tensor,
    *,
    context: Tensor | ContextAt,
    noise: Noise | None = None,
    steps: Sequence[Step] | None = None,
) -> Generator[DenoisingStep, Tensor | None, None]:
    """Walk x_T (B, C, h, w) along the scheduler's grid, yielding after every step.

    A tensor that is sent back (`walk.send(x)`) takes the place of the step's x: repainting, and
    whoever steers latents from outside, change the walk so.

    x_T: the sample at the first step's t, already multiplied by `scheduler.init_noise_sigma`.
    context: what the denoiser is told, (B, L, D), or (2B, L, D) for a guided one; or what gives
    it for each step.
    noise: draws noise shaped like x_T; needed where the scheduler adds any.
    steps: a part of the scheduler's grid, the whole by default.

    Raises UserError when a prediction is not finite, naming the step: there on the CPU, on another
    device before the last step is yielded, so that nothing waits for the device on the way.
    """
    watch = FiniteWatch("the U-Net", getattr(denoiser, "dtype", None))
    grid = scheduler.grid() if steps is None else tuple(steps)
    x, then = x_T, None
    for index, planned in enumerate(grid):
        step = planned if then is None else then
        now = context if isinstance(context, Tensor) else context(index, len(grid))
        prediction = denoiser(scheduler.scale_input(x, step), step.t, now)
        watch.see(prediction, f"at step {index + 1} of {len(grid)} (t = {step.t})")
        drawn = noise() if noise is not None and scheduler.needs_noise(step) else None
        result = scheduler.step(prediction, x, step, drawn)
        x, then = result.x, result.then
        if result.done or index + 1 == len(grid):
            watch.settle()
        sent = yield DenoisingStep(index, len(grid), step.t, x, result.x_0)
        if result.done:
            return
        if sent is not None:
            assert sent.shape == x.shape, (sent.shape, x.shape)
            x = sent.to(device=x.device, dtype=x.dtype)


class NonFiniteError(UserError):
    """A network gave NaN or infinity."""


class FiniteWatch:
    """Whether all predictions of a walk are finite, asked without waiting for a device."""

    def __init__(self, module: str, computed_in: torch.dtype | None) -> None:
        self.module, self.computed_in = module, computed_in
        self._flags: list[tuple[Tensor, str]] = []

    def see(self, value: Tensor, where: str) -> None:
        """Check a value, at once where it costs no waiting."""
        if value.device.type in READ_AT_ONCE:
            check_finite(value, self.module, where, self.computed_in)
        else:
            self.computed_in = self.computed_in or value.dtype
            self._flags.append((torch.isfinite(value).all(), where))

    def settle(self) -> None:
        """Read what has not been read; NonFiniteError naming the first place."""
        if not self._flags:
            return
        finite = torch.stack([flag for flag, _ in self._flags]).tolist()
        places = [where for _, where in self._flags]
        self._flags = []
        if not all(finite):
            raise _not_finite(self.module, places[finite.index(False)], self.computed_in)


def check_finite(
    value: Tensor, module: str, where: str, computed_in: torch.dtype | None = None
) -> None:
    """NonFiniteError naming module, place and dtype when a tensor holds NaN or infinity.

    computed_in: the module's own dtype, where the value has been cast since.
    """
    if not bool(torch.isfinite(value).all()):
        raise _not_finite(module, where, computed_in or value.dtype)


def _not_finite(module: str, where: str, computed_in: torch.dtype | None) -> NonFiniteError:
    kind = str(computed_in).removeprefix("torch.")
    return NonFiniteError(
        f"{module} gave NaN or infinity {where}, computed in {kind}; "
        "try float32, a smaller guidance scale or another scheduler"
    )
