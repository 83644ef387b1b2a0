"""From seed to seed and prompt to prompt: a request for each frame on the way."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from latentdiff.errors import UserError
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.request_records import Blend

MAX_FRAMES = 10_000


def frames(
    template: Request, prompts: Sequence[str], seeds: Sequence[int], count: int, *, loop: bool
) -> list[Request]:
    """The requests of a walk through end points, `count` pictures from each to before the next.

    prompts, seeds: of the end points; one stays the same for all, otherwise there are as many of
    the one as of the other. The last end point closes the walk; with `loop` it leads to the first
    again, which is not drawn twice.
    """
    ends = max(len(prompts), len(seeds))
    for name, values in (("prompts", prompts), ("seeds", seeds)):
        if len(values) not in (1, ends):
            raise UserError(
                f"{len(prompts)} prompts and {len(seeds)} seeds make no pairs; expected one of "
                f"the one, or as many {name} as of the other"
            )
    if ends < 2:
        raise UserError("one prompt and one seed are one picture; give a second of either")
    if count < 1 or count * ends > MAX_FRAMES:
        raise UserError(
            f"{count} frames a stretch is out of range; expected 1 … {MAX_FRAMES // ends}"
        )
    said = list(prompts) * (ends if len(prompts) == 1 else 1)
    from_seeds = list(seeds) * (ends if len(seeds) == 1 else 1)
    stops = list(zip(said, from_seeds, strict=True))
    if loop:
        stops.append(stops[0])
    found = []
    for (prompt, seed), (other, far) in itertools.pairwise(stops):
        for k in range(count):
            blend = Blend(
                seed=None if far == seed else far,
                prompt=None if other == prompt else other,
                amount=k / count,
            )
            found.append(
                dataclasses.replace(template, prompt=prompt, seed=seed, blend=blend if k else None)
            )
    if not loop:
        prompt, seed = stops[-1]
        found.append(dataclasses.replace(template, prompt=prompt, seed=seed, blend=None))
    return found
