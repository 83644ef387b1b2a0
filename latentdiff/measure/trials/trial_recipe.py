"""What a small training may be asked: target, weighting, schedule, optimizer, conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import yaml

from latentdiff import config as configs
from latentdiff.diffusion.noise_schedule import (
    SCHEDULE_NAMES,
    NoiseSchedule,
    from_betas,
    make_schedule,
)
from latentdiff.diffusion.objective import WEIGHTINGS
from latentdiff.diffusion.prediction import check_prediction_type
from latentdiff.errors import UserError, unknown_name
from latentdiff.measure.measure_likelihood import levels_of
from latentdiff.pipelines.sweep import Axis, parse_axis

Optimizer = Literal["adamw", "muon"]
Conditioning = Literal["cross", "pooled"]
OWN = "own"


@dataclass(frozen=True, kw_only=True)
class TrialRecipe:
    """One training. samples: latents that it sees, noised, with repeats.

    schedule: the model's "own", or a name of `noise_schedule`; at T timesteps its betas are those
    of 1000 times 1000/T (Nichol & Dhariwal 2021's rule), so that it ends in noise. conditioning:
    cross-attention alone, or with the pooled text in the timestep and adaptive group norm. width:
    of the U-Net's first level, a multiple of 8; its second is twice as wide.
    """

    prediction: str = "v_prediction"
    weighting: str = "simple"
    gamma: float = 5.0
    schedule: str = OWN
    timesteps: int = 1000
    optimizer: Optimizer = "muon"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.015
    batch_size: int = 16
    samples: int = 4000
    conditioning: Conditioning = "pooled"
    width: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction)
        if self.weighting not in WEIGHTINGS:
            raise unknown_name("loss weighting", self.weighting, WEIGHTINGS)
        if self.schedule not in (OWN, *SCHEDULE_NAMES):
            raise unknown_name("noise schedule", self.schedule, (OWN, *SCHEDULE_NAMES))
        for name, known in (("optimizer", Optimizer), ("conditioning", Conditioning)):
            if getattr(self, name) not in get_args(known):
                raise unknown_name(name, getattr(self, name), get_args(known))
        if not 2 <= self.timesteps <= 1000:
            raise UserError(f"timesteps is {self.timesteps}, expected 2 … 1000")
        if self.width < 8 or self.width % 8:
            raise UserError(f"width is {self.width}, expected a multiple of 8")
        if not 1 <= self.batch_size <= self.samples:
            raise UserError(f"batch_size {self.batch_size} does not fit {self.samples} samples")

    def noise_schedule(self, own: NoiseSchedule) -> NoiseSchedule:
        """The schedule; own: the model's."""
        if self.schedule == OWN:
            return (
                own if self.timesteps == len(own.beta) else levels_of(own, self.timesteps).schedule
            )
        if self.schedule in ("cosine", "squaredcos_cap_v2"):
            return make_schedule(self.schedule, self.timesteps)
        whole = make_schedule(self.schedule, 1000).beta
        stretch = 1000 // self.timesteps
        middle = whole[stretch // 2 :: stretch][: self.timesteps]
        return from_betas((middle * (1000 / self.timesteps)).clamp(max=0.999))

    @property
    def updates(self) -> int:
        """Of the weights."""
        return self.samples // self.batch_size


def recipes_of(base: TrialRecipe, axis: Axis) -> list[TrialRecipe]:
    """The base with each value of an axis; "with" sweeps whole settings, joined by +."""
    found = []
    for text in axis.values:
        parts = [parse_axis(part) for part in text.split("+")] if axis.name == "with" else [
            Axis(axis.name, axis.field, (text,))
        ]  # fmt: skip
        changed = base
        for part in parts:
            value: Any = yaml.safe_load(part.values[0])
            changed = configs.from_dict(TrialRecipe, {part.name: value}, base=changed)
        found.append(changed)
    return found


def names_of(axis: Axis) -> Sequence[str]:
    """What each trial is called."""
    return axis.values
