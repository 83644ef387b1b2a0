"""The probability flow by Heun's method: deterministic, of second order.

Song et al. 2021, eq. 13, in the angle φ of `diffusion.score`, where it reads dx/dφ = v. DDIM at
η = 0 is a first-order solver of the same flow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from torch import Tensor

from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.score import alpha_bar_to_angle
from latentdiff.diffusion.timesteps import Step
from latentdiff.schedulers.base import working
from latentdiff.schedulers.protocol import StepResult
from latentdiff.schedulers.scores.score_sampler import ScoreSampler, numbered


@dataclasses.dataclass(frozen=True)
class _Begun:
    """The first half of a step: where it began, the velocity there, and how far it goes."""

    x: Tensor
    velocity: Tensor
    turn: float
    index: int


class ProbabilityFlow(ScoreSampler):
    """Each step asks twice: where it stands, and at the Euler guess of where it leads.

    The second question is a step of its own in `grid()`, with t = t_prev, whose result replaces the
    guess. The last step, to clean data, has no level to ask at and takes x̂_0: so n steps take
    2n − 1 calls. The order is 2 down to the last timestep of the grid; use a grid that ends near 0
    ("linspace" or "leading") where that matters.
    """

    def __init__(
        self, schedule: NoiseSchedule, steps: Sequence[Step], *, prediction_type: str = "epsilon"
    ) -> None:
        pairs: list[tuple[int | float, int | float]] = []
        for step in steps:
            pairs.append((step.t, step.t_prev))
            if step.t_prev >= 0:
                pairs.append((step.t_prev, step.t_prev))
        super().__init__(schedule, numbered(pairs), prediction_type=prediction_type)
        self._begun: _Begun | None = None

    def needs_noise(self, step: Step) -> bool:
        """Never: the flow is deterministic."""
        return False

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """The first or the second half of a move; (B, …) in, x's dtype out."""
        said, x_t = working(prediction, x)
        t = int(step.t)
        velocity, x_0 = self._velocity(said, x_t, t), self._x_0(said, x_t, t)
        begun, self._begun = self._begun, None
        if step.t == step.t_prev:
            if begun is None or begun.index != step.index - 1:
                moved = x_t  # a grid cut between the halves: x is at this level already
            else:
                moved = begun.x + 0.5 * begun.turn * (begun.velocity + velocity)
        else:
            alpha_bar, alpha_bar_prev = self.levels(step)
            turn = alpha_bar_to_angle(alpha_bar_prev) - alpha_bar_to_angle(alpha_bar)
            if step.t_prev < 0:  # as if x̂_0 and ε̂ stood still, which is DDIM's step
                moved = math.cos(turn) * x_t + math.sin(turn) * velocity
            else:
                moved = x_t + turn * velocity
                self._begun = _Begun(x_t, velocity, turn, step.index)
        return StepResult(x=moved.to(x.dtype), x_0=x_0.to(x.dtype))
