"""Grids of (t, t_prev) pairs, noisiest first: which training timesteps a sampler visits.

The previous step is looked up in the list, never computed by a stride, and t_prev = −1 is clean
data. `leading`, `trailing` and `linspace` are table 2 of Lin et al. 2023 and equal diffusers;
`quadratic` is DDIM (Song et al. 2021) appendix D.2.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal, get_args

from latentdiff.errors import UserError, unknown_name

Spacing = Literal["leading", "trailing", "linspace", "quadratic"]
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)


@dataclasses.dataclass(frozen=True)
class Step:
    """One move of a sampler.

    t: the timestep that the network is told (an integer here; diffusers' own samplers may ask
    for one between two); t_prev: where the move leads, −1 for clean data; index: the position
    in the whole grid, which stays the same when a grid is cut.
    """

    t: int | float
    t_prev: int | float
    index: int = 0


def grid(
    num_train_timesteps: int,
    num_inference_steps: int,
    spacing: str = "leading",
    steps_offset: int = 0,
) -> tuple[Step, ...]:
    """The steps of a named spacing, noisiest first.

    steps_offset moves the `leading` grid up (1 in Stable Diffusion); the others have no use for
    it, as in diffusers. Raises UserError for an unknown spacing or a number of steps that the
    schedule cannot give.
    """
    T, n = num_train_timesteps, num_inference_steps
    if spacing not in SPACINGS:
        raise unknown_name("timestep spacing", spacing, SPACINGS)
    if not 1 <= n <= T:
        raise UserError(f"num_inference_steps must be 1 … {T}, found {n}")
    if spacing == "leading":
        rising = [i * (T // n) + steps_offset for i in range(n)]
        if rising[0] < 0 or rising[-1] >= T:
            raise UserError(
                f"'leading' with {n} steps and steps_offset {steps_offset} reaches timestep "
                f"{rising[-1]} of 0 … {T - 1}: use fewer steps or the 'trailing' spacing"
            )
    elif spacing == "trailing":
        # In floats, in numpy.arange's order, for the ties to fall as they do in diffusers.
        delta = (T - T / n) - T
        rising = [round(T + i * delta) - 1 for i in reversed(range(n))]
    elif spacing == "linspace":
        if n == 1:
            raise UserError(
                "'linspace' with 1 step would start at timestep 0, where no noise is left: "
                "use the 'trailing' spacing or more steps"
            )
        rising = [round(i * ((T - 1) / (n - 1))) for i in range(n)]
    else:
        # The paper's τ_i = ⌊c·i²⌋ for i = 1 … n with τ_n = T counts from 1. Where c·i² is
        # below i (n > √T) the steps would repeat; there they rise one by one.
        rising = [max(i, T * i * i // (n * n)) - 1 for i in range(1, n + 1)]
    return from_timesteps(rising[::-1], num_train_timesteps=T)


def from_timesteps(timesteps: Sequence[int], *, num_train_timesteps: int) -> tuple[Step, ...]:
    """The steps of an explicit list, which must fall strictly within T−1 … 0."""
    listed = [int(t) for t in timesteps]
    if not listed:
        raise UserError("the list of timesteps is empty: give at least one")
    if any(a <= b for a, b in itertools.pairwise(listed)):
        raise UserError(f"timesteps must fall strictly, found {_shown(listed)}")
    if listed[0] >= num_train_timesteps or listed[-1] < 0:
        raise UserError(
            f"timesteps must lie in 0 … {num_train_timesteps - 1}, found {_shown(listed)}"
        )
    previous = [*listed[1:], -1]
    pairs = zip(listed, previous, strict=True)
    return tuple(Step(t, t_prev, index) for index, (t, t_prev) in enumerate(pairs))


def with_strength(
    steps: Sequence[Step], strength: float, *, asked: int | None = None, order: int = 1
) -> tuple[Step, ...]:
    """The last min(⌊n·strength⌋, n) steps of a grid: a start from a half-noised picture.

    strength in (0, 1]; 1 keeps the whole grid (diffusers' image-to-image rule). asked: n, where the
    grid is longer than what was asked for; order: entries of the grid for each of those steps.
    Raises UserError when strength is outside or leaves no step.
    """
    if not 0.0 < strength <= 1.0:
        raise UserError(f"strength must lie in (0, 1], found {strength}")
    n = len(steps) if asked is None else asked
    kept = min(int(n * strength), n)
    if kept == 0:
        raise UserError(
            f"strength {strength} of {n} steps leaves none: use at least {1 / n:.3g} or more steps"
        )
    return tuple(steps[(n - kept) * order :])


def reverse(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The same pairs, cleanest first, for a walk from t_prev up to t."""
    return tuple(
        dataclasses.replace(step, index=index) for index, step in enumerate(reversed(steps))
    )


def _shown(listed: Sequence[int]) -> str:
    if len(listed) <= 8:
        return ", ".join(map(str, listed))
    return f"{', '.join(map(str, listed[:4]))}, …, {', '.join(map(str, listed[-2:]))}"
