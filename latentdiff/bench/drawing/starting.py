"""`bench startup`: from the shell to a picture on disk, and how long a model takes to open."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentdiff.bench.drawing.drawers import Work
from latentdiff.bench.race import Command, Entrant, race
from latentdiff.bench.report import Race

Say = Callable[[str], None]
SHORTEST = textwrap.dedent(
    """
    import sys, torch
    from diffusers import StableDiffusionPipeline
    model, prompt, steps, scale, place = sys.argv[1:]
    pipe = StableDiffusionPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(
        prompt,
        num_inference_steps=int(steps),
        guidance_scale=float(scale),
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    image.save(place + "/picture.png")
    """
)
"""The shortest script that draws with diffusers."""


def cold(work: Work, *, repeats: int, threads: int, say: Say) -> Race:
    """A fresh process for each picture: `latentdiff generate` against that script."""
    told = [work.prompt, "--steps", str(work.steps), "--guidance-scale", str(work.guidance_scale)]
    ours = [sys.executable, "-m", "latentdiff", "generate", *told, "--seed", "0"]
    entrants = [
        Command(
            name="latentdiff generate",
            command=[*ours, "--model", work.model, "-o", "OUT/picture.png"],
            threads=threads,
            facts=_drew,
        ),
        Command(
            name="diffusers",
            command=[
                *(sys.executable, "-c", SHORTEST, work.model, work.prompt),
                *(str(work.steps), str(work.guidance_scale), "OUT"),
            ],
            threads=threads,
            facts=_drew,
        ),
    ]
    return Race(
        title="cold start",
        work=f"process start to PNG written, {Path(work.model).name}, {work.steps} steps",
        outcomes=race(entrants, repeats=repeats, warmups=1, say=say),
        base="diffusers",
    )


def _drew(folder: Path) -> Mapping[str, Any]:
    return {"bytes": (folder / "picture.png").stat().st_size}


def opening(models: Sequence[str], *, repeats: int, threads: int, say: Say) -> list[Race]:
    """Opening a model's folder, all libraries loaded; a race for each model."""
    found = []
    for model in models:
        entrants = [
            Entrant(
                name=name,
                maker=f"latentdiff.bench.drawing.starting:{maker}",
                settings={"model": model},
                threads=threads,
            )
            for name, maker in (("latentdiff", "open_ours"), ("diffusers", "open_theirs"))
        ]
        found.append(
            Race(
                title=f"opening {Path(model).name}",
                work="from_pretrained in a process that has opened one before, float32",
                outcomes=race(entrants, repeats=repeats, warmups=1, say=say),
                base="diffusers",
            )
        )
    return found


def open_ours(*, model: str) -> Callable[[int], None]:
    """`TextToImagePipeline.from_pretrained`."""
    from latentdiff.pipelines import TextToImagePipeline

    return lambda number: _forget(TextToImagePipeline.from_pretrained(model))


def open_theirs(*, model: str) -> Callable[[int], None]:
    """`StableDiffusionPipeline.from_pretrained`."""
    from diffusers import StableDiffusionPipeline

    return lambda number: _forget(StableDiffusionPipeline.from_pretrained(model))


def _forget(pipeline: object) -> None:
    """Nothing is kept of it: a turn returns no facts."""
