"""What the denoising loop asks of a scheduler, and what it gets back."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from torch import Tensor

from latentdiff.diffusion.timesteps import Step


@dataclasses.dataclass(frozen=True)
class StepResult:
    """x: the sample at step.t_prev; x_0: the clean data this step aimed at, both (B, …).

    A scheduler that decides as it goes says what to ask next in `then`, in place of the grid's own
    next step, and ends the walk before the grid's end by `done`.
    """

    x: Tensor
    x_0: Tensor
    then: Step | None = None
    done: bool = False


class Scheduler(Protocol):
    """A walk from noise to data, or back, in explicit steps.

    The loop starts from `init_noise_sigma` · N(0, I) and, for each step of `grid()`, shows the
    network `scale_input(x, step)` at `step.t` and hands its answer to `step(…)`, with noise drawn
    like x whenever `needs_noise(step)` says so.
    """

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of x at the first step."""

    @property
    def prediction_type(self) -> str:
        """What the network's answer is taken for, one of diffusion.prediction's kinds."""

    def grid(self) -> tuple[Step, ...]:
        """All steps, in the order to take them."""

    def scale_input(self, x: Tensor, step: Step) -> Tensor:
        """What the network is shown for x, (B, …)."""

    def needs_noise(self, step: Step) -> bool:
        """Whether `step(…)` will want fresh noise."""

    def signal_and_noise(self, step: Step) -> tuple[float, float]:
        """(a, s) of the sample at step.t: a · x_0 + s · ε, in the scheduler's own scaling."""

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """One move; noise is (B, …) standard normal, None where none is needed."""
