"""How fast a device draws and trains, beside diffusers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from latentdiff.bench.drawing import generation
from latentdiff.bench.drawing.generation import Drawer
from latentdiff.bench.drawing.work import work_of
from latentdiff.bench.report import Race
from latentdiff.bench.training import training_race
from latentdiff.bench.training.training_work import TrainingWork
from latentdiff.scenes.export import export
from latentdiff.scenes.world import World

PROMPT = "a cat in the snow"
REPEATS = 3
ROWS = 32
"""Captioned scenes of the training race: two batches of 16."""


def drawers(device: str) -> list[Drawer]:
    """This project and diffusers; on an accelerator also in bfloat16, and diffusers tuned, which on
    a CPU takes minutes to compile."""
    plain = generation.on(device)
    if device == "cpu":
        return [one for one in plain if one.name != generation.PEERS["tuned"].name]
    rough = generation.ROUGH["bfloat16"]
    return [*plain, replace(rough, settings=(*rough.settings, ("device", device)))]


def races(model: str, device: str, say: Callable[[str], None]) -> list[Race]:
    """Drawing, then fine-tuning: a few rounds of each."""
    drawn = work_of(model, PROMPT, None, None, 1)
    on_gpu = device.startswith("cuda")
    found = [
        generation.drawing_race(
            drawn,
            drawers(device),
            repeats=REPEATS,
            warmups=1,
            threads=1,
            floor=not on_gpu,
            say=say,
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "scenes"
        export(data, World(0, size=drawn.width), ROWS)
        work = TrainingWork(
            model=drawn.model,
            data=str(data),
            folder=folder,
            size=drawn.width,
            steps=20 if on_gpu else 1,
            device=device,
            mixed_precision="bf16" if on_gpu else "no",
        )
        learners = [
            one
            for one in training_race.LEARNERS
            if one.name in (training_race.PEER, training_race.OURS)
        ]
        found.append(
            training_race.training_race(
                work,
                rows=ROWS,
                repeats=REPEATS,
                warmups=1,
                threads=1,
                learners=learners,
                say=say,
            )
        )
    return found
