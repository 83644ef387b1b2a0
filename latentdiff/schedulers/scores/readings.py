"""The other readings of a DDPM's network, by name: Langevin, the SDE, the probability flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.timesteps import Step
from latentdiff.schedulers.protocol import Scheduler
from latentdiff.schedulers.scores.adaptive_flow import AdaptiveFlow
from latentdiff.schedulers.scores.annealed_langevin import AnnealedLangevin
from latentdiff.schedulers.scores.probability_flow import ProbabilityFlow
from latentdiff.schedulers.scores.vp_sde import VPSDE

Make = Callable[[NoiseSchedule, Sequence[Step], str], Scheduler]

READINGS: dict[str, Make] = {
    "annealed-langevin": lambda s, steps, kind: AnnealedLangevin(s, steps, prediction_type=kind),
    "vp-sde": lambda s, steps, kind: VPSDE(s, steps, prediction_type=kind),
    "vp-sde-pc": lambda s, steps, kind: VPSDE(s, steps, prediction_type=kind, corrector_steps=1),
    "probability-flow": lambda s, steps, kind: ProbabilityFlow(s, steps, prediction_type=kind),
    "probability-flow-adaptive": lambda s, steps, kind: AdaptiveFlow(
        s, steps, prediction_type=kind
    ),
}


def make_reading(
    name: str, schedule: NoiseSchedule, steps: Sequence[Step], prediction_type: str
) -> Scheduler:
    """The sampler called `name`, one of READINGS, over the pairs of a grid."""
    return READINGS[name](schedule, steps, prediction_type)
