"""What the samplers share that read the network as a score: steps, levels, x_0, ε and velocity."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.prediction import check_prediction_type, to_eps, to_x_0
from latentdiff.diffusion.score import to_v
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError


class ScoreSampler:
    """A variance-preserving sampler over the pairs of a grid (`diffusion.timesteps`).

    A sampler that asks the network several times about one level says so in its `grid()`: a step
    with t_prev = t stays at its level. Raises UserError for ε-prediction under zero terminal SNR.
    """

    init_noise_sigma: float = 1.0

    def __init__(
        self, schedule: NoiseSchedule, steps: Sequence[Step], *, prediction_type: str = "epsilon"
    ) -> None:
        self.schedule = schedule
        self.prediction_type: str = check_prediction_type(prediction_type)
        if prediction_type == "epsilon" and schedule.has_zero_terminal_snr:
            raise UserError(
                "prediction type 'epsilon' cannot be sampled under zero terminal SNR: there ε says "
                "nothing of x_0; use a checkpoint with 'v_prediction' or 'sample'"
            )
        self._grid = tuple(steps)

    def grid(self) -> tuple[Step, ...]:
        """One step for each call of the network, noisiest first."""
        return self._grid

    def scale_input(self, x: Tensor, step: Step) -> Tensor:
        """x itself: a variance-preserving sampler shows the network what it holds."""
        return x

    def signal_and_noise(self, step: Step) -> tuple[float, float]:
        """√ᾱ and √(1−ᾱ) at step.t (DDPM eq. 4)."""
        alpha_bar = self.schedule.alpha_bar_at(int(step.t))
        return math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar)

    def levels(self, step: Step) -> tuple[float, float]:
        """ᾱ at step.t and at step.t_prev."""
        return self.schedule.alpha_bar_at(int(step.t)), self.schedule.alpha_bar_at(int(step.t_prev))

    def _x_0(self, said: Tensor, x: Tensor, t: int) -> Tensor:
        before = float(self.schedule.alpha_bar_prev[t])
        level, kind = self.schedule.alpha_bar_at(t), self.prediction_type
        return to_x_0(said, x, level, prediction_type=kind, alpha_bar_prev=before)

    def _eps(self, said: Tensor, x: Tensor, t: int) -> Tensor:
        before = float(self.schedule.alpha_bar_prev[t])
        level, kind = self.schedule.alpha_bar_at(t), self.prediction_type
        return to_eps(said, x, level, prediction_type=kind, alpha_bar_prev=before)

    def _velocity(self, said: Tensor, x: Tensor, t: int) -> Tensor:
        before = float(self.schedule.alpha_bar_prev[t])
        level, kind = self.schedule.alpha_bar_at(t), self.prediction_type
        return to_v(said, x, level, prediction_type=kind, alpha_bar_prev=before)


def numbered(pairs: Sequence[tuple[int | float, int | float]]) -> tuple[Step, ...]:
    """Steps of (t, t_prev) pairs with their indices."""
    return tuple(Step(t, t_prev, index) for index, (t, t_prev) in enumerate(pairs))
