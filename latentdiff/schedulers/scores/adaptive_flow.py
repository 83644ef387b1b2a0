"""The probability flow by an adaptive solver: Bogacki & Shampine's 3(2) pair (1989).

The flow is dx/dφ = v (`diffusion.score`). Each step asks the network three times and compares a
third-order with a second-order answer; where they differ by more than the tolerance the step is
taken again, shorter.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

from torch import Tensor

from latentdiff.diffusion.noise_schedule import NoiseSchedule, work_dtype
from latentdiff.diffusion.prediction import to_x_0
from latentdiff.diffusion.score import (
    alpha_bar_to_angle,
    angle_to_alpha_bar,
    angle_to_timestep,
    to_v,
)
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError
from latentdiff.schedulers.base import working
from latentdiff.schedulers.protocol import StepResult
from latentdiff.schedulers.scores.score_sampler import ScoreSampler

FIRST_SHARE = 0.05
"""The first step tried, as a share of the whole way."""

Asked = tuple[Tensor, float]
"""x and the angle that the network is to be asked about."""


class AdaptiveFlow(ScoreSampler):
    """Walks from the first timestep of `steps` to clean data, choosing its own levels in between.

    steps: its first t is the start, its length the most calls of the network that may be spent;
    a UserError says so when they are. Fewer are mostly needed: the walk ends early.
    tolerance: the largest root mean square, over a sample's elements, of a step's error estimate,
    in units of x (data of unit variance). The samples of a batch share their steps, so a companion
    changes a picture within the tolerance. "posterior_mean" is refused: between two training
    timesteps it means nothing.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        steps: Sequence[Step],
        *,
        prediction_type: str = "epsilon",
        tolerance: float = 0.01,
    ) -> None:
        super().__init__(schedule, steps, prediction_type=prediction_type)
        if prediction_type == "posterior_mean":
            raise UserError(
                "the adaptive flow asks between the training timesteps, where a 'posterior_mean' "
                "prediction is not defined: use 'probability-flow'"
            )
        if not tolerance > 0.0:
            raise UserError(f"tolerance must be above 0, found {tolerance:g}")
        self.tolerance = tolerance
        self._walk: Generator[Asked, Tensor, Tensor] | None = None
        self._asked: Asked | None = None
        self._handed: Tensor | None = None
        self._expected = -1

    def needs_noise(self, step: Step) -> bool:
        """Never: the flow is deterministic."""
        return False

    def alpha_bar(self, t: float) -> float:
        """ᾱ at a timestep between two training timesteps: their angles, linearly between."""
        low = min(int(t), self.schedule.num_train_timesteps - 1)
        high = min(low + 1, self.schedule.num_train_timesteps - 1)
        ends = [alpha_bar_to_angle(self.schedule.alpha_bar_at(k)) for k in (low, high)]
        return angle_to_alpha_bar(ends[0] + (t - low) * (ends[1] - ends[0]))

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """Take one answer of the network. `then` says what to ask next, `done` that x is clean."""
        said, x_t = working(prediction, x)
        if self._walk is None or step.index != self._expected:
            start = alpha_bar_to_angle(self.schedule.alpha_bar_at(int(step.t)))
            self._walk = self._solve(x_t, start)
            self._asked = next(self._walk)
        elif x is not self._handed:
            raise UserError(
                "the adaptive flow cannot be steered from outside (inpainting, guidance by "
                "gradients), for it repeats steps: use 'probability-flow' or 'ddim'"
            )
        assert self._asked is not None
        asked_x, angle = self._asked
        level, kind = angle_to_alpha_bar(angle), self.prediction_type
        x_0 = to_x_0(said, asked_x, level, prediction_type=kind)
        velocity = to_v(said, asked_x, level, prediction_type=kind)
        self._expected = step.index + 1
        try:
            self._asked = self._walk.send(velocity)
        except StopIteration as end:
            self._walk = None
            return StepResult(x=end.value.to(x.dtype), x_0=x_0.to(x.dtype), done=True)
        if self._expected == len(self._grid):
            t = angle_to_timestep(self._asked[1], self.schedule)
            raise UserError(
                f"the adaptive flow spent its {len(self._grid)} network calls and stands at "
                f"t = {t:.0f}: allow more steps, or a larger tolerance than {self.tolerance:g}"
            )
        t = angle_to_timestep(self._asked[1], self.schedule)
        self._handed = self._asked[0].to(x.dtype)
        return StepResult(x=self._handed, x_0=x_0.to(x.dtype), then=Step(t, t, self._expected))

    def _solve(self, x: Tensor, angle: float) -> Generator[Asked, Tensor, Tensor]:
        """Yields what to ask, is sent the velocity there, returns the clean sample."""
        last = alpha_bar_to_angle(self.schedule.alpha_bar_at(0))
        clean = alpha_bar_to_angle(self.schedule.alpha_bar_at(-1))
        x = x.to(work_dtype(x.device))
        turn = FIRST_SHARE * (last - angle)
        k1 = yield x, angle
        while angle > last:
            if angle + 1.2 * turn <= last:
                turn = last - angle  # rather this than a sliver at the end
            k2 = yield x + turn / 2 * k1, angle + turn / 2
            k3 = yield x + 3 * turn / 4 * k2, angle + 3 * turn / 4
            guess = x + turn * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
            k4 = yield guess, angle + turn
            error = turn * (-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4)
            size = float(error.flatten(1).square().mean(dim=1).max().sqrt()) / self.tolerance
            if size <= 1.0:
                x, angle, k1 = guess, max(angle + turn, last), k4
            turn *= min(max(0.9 * max(size, 1e-9) ** (-1 / 3), 0.2), 5.0)
        rest = clean - last  # as if x̂_0 and ε̂ stood still, which is DDIM's step
        return math.cos(rest) * x + math.sin(rest) * k1
