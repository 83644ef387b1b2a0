"""The reverse of the variance-preserving SDE by Euler–Maruyama, with a Langevin corrector.

Song et al. 2021 ("Score-based generative modeling through SDEs"), eq. 6, 11 and algorithms 3, 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.score import eps_to_score
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError
from latentdiff.schedulers.base import required_noise, working
from latentdiff.schedulers.protocol import StepResult
from latentdiff.schedulers.scores.score_sampler import ScoreSampler, numbered


class VPSDE(ScoreSampler):
    """dx = [−½β(t)·x − β(t)·score]dt + √β(t)·dw̄, backwards in time.

    With h = ∫β dt = log(ᾱ_prev/ᾱ_t) over a step, the predictor is x + h·(x/2 + score) + √h·z, of
    weak order 1 in h; the last step adds no noise. After it, corrector_steps of Langevin dynamics
    at the new level, x + e·g + √(2e)·z with g the score and e = 2α_t·(snr·‖z‖/‖g‖)², the norms
    taken for each sample alone. n steps take n + (n − 1)·corrector_steps calls. Raises UserError
    under zero terminal SNR, where h is infinite.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        steps: Sequence[Step],
        *,
        prediction_type: str = "epsilon",
        corrector_steps: int = 0,
        snr: float = 0.16,
    ) -> None:
        if corrector_steps < 0:
            raise UserError(f"corrector_steps must be at least 0, found {corrector_steps}")
        if not snr > 0.0:
            raise UserError(f"snr must be above 0, found {snr:g}")
        pairs: list[tuple[int | float, int | float]] = []
        for step in steps:
            pairs.append((step.t, step.t_prev))
            if step.t_prev >= 0:
                pairs += [(step.t_prev, step.t_prev)] * corrector_steps
        super().__init__(schedule, numbered(pairs), prediction_type=prediction_type)
        if any(schedule.alpha_bar_at(int(step.t)) == 0.0 for step in steps):
            raise UserError(
                "the VP-SDE's rate is infinite where no signal is left (zero terminal SNR): "
                "use 'probability-flow' or 'ddpm', or timesteps that start below it"
            )
        self.snr = snr

    def needs_noise(self, step: Step) -> bool:
        """In every step but the last."""
        return step.t_prev >= 0

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """A predictor's move from step.t to step.t_prev, or a corrector's at step.t = t_prev."""
        said, x_t = working(prediction, x)
        t = int(step.t)
        alpha_bar, alpha_bar_prev = self.levels(step)
        score = eps_to_score(self._eps(said, x_t, t), alpha_bar)
        if step.t == step.t_prev:
            moved = self._correct(x_t, score, required_noise(noise, x_t), t)
        else:
            h = math.log(alpha_bar_prev / alpha_bar)
            moved = x_t + h * (0.5 * x_t + score)
            if self.needs_noise(step):
                moved = torch.add(moved, required_noise(noise, x_t), alpha=math.sqrt(h))
        x_0 = self._x_0(said, x_t, t)
        return StepResult(x=moved.to(x.dtype), x_0=x_0.to(x.dtype))

    def _correct(self, x: Tensor, score: Tensor, noise: Tensor, t: int) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 1))
        of_noise = torch.linalg.vector_norm(noise.flatten(1), dim=1).reshape(shape)
        of_score = torch.linalg.vector_norm(score.flatten(1), dim=1).reshape(shape)
        rate = 2.0 * float(self.schedule.alpha[t]) * (self.snr * of_noise / of_score).square()
        pulled: Tensor = x + rate * score
        return torch.add(pulled, (2.0 * rate).sqrt() * noise)
