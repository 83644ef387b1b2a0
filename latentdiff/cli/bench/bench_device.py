"""`latentdiff bench device`: what works on this accelerator, and how fast; behind `make gpu`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from latentdiff import config
from latentdiff.cli.bench import common

PROG = "latentdiff bench device"
SCENES = 12


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is checked, and where the page goes."""

    device: str = "cuda"
    """The device; cpu rehearses the checks."""
    model: str = "snowglobe"
    """snowglobe, or a folder in diffusers format."""
    only: tuple[str, ...] = ()
    """Checks by the beginnings of their names; default: all, and then the races."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("device")
    """Folder for device.json and device.html."""


def main(argv: Sequence[str]) -> int:
    """Check, race, write the page; 0 when all checks hold, 1 otherwise."""
    options = config.parse(
        Options, argv, prog=PROG, description="Check and time everything on an accelerator."
    )
    from latentdiff.bench.device_checks import CHECKS, Place
    from latentdiff.bench.device_page import DeviceReport, check_all
    from latentdiff.bench.drawing import generation
    from latentdiff.bench.drawing.work import work_of
    from latentdiff.scenes.export import export
    from latentdiff.scenes.world import World

    work = work_of(options.model, "a cat in the snow", None, None, 1)
    chosen = {n: c for n, c in CHECKS.items() if not options.only or n.startswith(options.only)}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "scenes"
        export(data, World(0, size=work.width), SCENES)
        place = Place(device=options.device, folder=Path(folder), data=data, model=options.model)
        findings = check_all(place, chosen, say=common.say)
    races = []
    if not options.only:
        races.append(
            generation.drawing_race(
                work,
                generation.on(options.device),
                repeats=3,
                warmups=1,
                threads=1,
                say=common.say,
            )
        )
    report = DeviceReport(benchmark="device", races=races, findings=tuple(findings))
    common.publish(report, options.output)
    return 0 if all(finding.holds for finding in findings) else 1
