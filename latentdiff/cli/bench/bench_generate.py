"""`latentdiff bench generate`: pictures a second, against the peers, and whether they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from latentdiff import config
from latentdiff.cli.bench import common
from latentdiff.cli.bench.common import RaceOptions

PROG = "latentdiff bench generate"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is drawn, and who draws."""

    model: str = "snowglobe"
    """snowglobe, or a folder in diffusers format; `bench weights` writes one of Stable Diffusion
    1.5's shape."""
    prompt: str = "a red fox in the snow"
    """What is drawn."""
    steps: int | None = None
    """Denoising steps; by default the model's own number."""
    sizes: tuple[int, ...] = ()
    """Pixels of a side, one race each; by default the model's own size."""
    batches: tuple[int, ...] = (1,)
    """Pictures drawn at once, one race each."""
    backends: tuple[Literal["openvino"], ...] = ()
    """This project's other backends, in rows of their own."""
    peers: tuple[Literal["tuned", "onnxruntime", "openvino", "stable-diffusion-cpp"], ...] = ()
    """Besides diffusers as a user calls it: tuned (channels last, fused projections, compiled; it
    takes minutes to start), ONNX Runtime, OpenVINO, and stable-diffusion.cpp, which takes no other
    shapes than Stable Diffusion's own. They must be installed."""
    rough: tuple[
        Literal[
            "bfloat16",
            "interval",
            "deepcache2",
            "deepcache3",
            "deepcache5",
            "openvino2",
            "openvino3",
        ],
        ...,
    ] = ()
    """Approximate methods of ours, in rows of their own: bfloat16 networks, guidance in the middle
    of the walk alone, deep features kept for one, two or four of the steps, or for one or
    two by OpenVINO."""
    race: RaceOptions = field(default_factory=RaceOptions)


def main(argv: Sequence[str]) -> int:
    """Race, print the tables, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Time drawing against the peers, on the same weights."
    )
    from latentdiff.bench.drawing import generation
    from latentdiff.bench.drawing.work import work_of
    from latentdiff.bench.report import Report

    drawers = [
        generation.OURS,
        *(generation.BACKENDS[name] for name in options.backends),
        generation.DIFFUSERS,
        *(generation.PEERS[name] for name in options.peers),
        *(generation.ROUGH[name] for name in options.rough),
    ]
    works = [
        work_of(options.model, options.prompt, options.steps, size, batch)
        for size in options.sizes or (None,)
        for batch in options.batches
    ]
    races = [
        (
            work.width,
            work.batch,
            generation.drawing_race(
                work,
                drawers,
                repeats=options.race.repeats,
                warmups=options.race.warmups,
                threads=options.race.threads,
                say=common.say,
            ),
        )
        for work in works
    ]
    report = Report(
        benchmark="generate",
        races=[race for _, _, race in races],
        plots=generation.throughput(races),
    )
    common.publish(report, options.race.output)
    return 0
