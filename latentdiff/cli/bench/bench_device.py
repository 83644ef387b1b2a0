"""`latentdiff bench device`: what works on this accelerator, and how fast; behind `make gpu`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from latentdiff import config
from latentdiff.cli.bench import common
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.bench.device.apart import Apart
    from latentdiff.bench.device.page import Finding

PROG = "latentdiff bench device"
RACES = "races"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is checked, and where the page goes."""

    device: str = "cuda"
    """The device; cpu rehearses the checks, and says what it cannot have."""
    model: str = "snowglobe"
    """What is drawn with and timed: snowglobe, or a folder in diffusers format."""
    only: tuple[str, ...] = ()
    """Checks by the beginnings of their names, and races; by default all."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("device")
    """Folder for device.json and device.html."""


def main(argv: Sequence[str]) -> int:
    """Check, race, write the page; 0 when no check fails, 1 otherwise."""
    began = time.monotonic()
    options = config.parse(
        Options, argv, prog=PROG, description="Check and time everything on an accelerator."
    )
    common.say("importing")
    from latentdiff.bench.device import apart
    from latentdiff.bench.device.checks import CHECKS

    wanted = [n for n in (*CHECKS, RACES) if not options.only or n.startswith(options.only)]
    if not wanted:
        raise UserError(f"no check begins with {options.only[0]!r}; there are: {', '.join(CHECKS)}")
    apart.import_ahead()
    processes = _processes(options.device)
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        if set(wanted) & set(CHECKS):
            findings = _findings(options, Path(folder), processes, wanted)
    from latentdiff.bench.device.page import DeviceReport
    from latentdiff.bench.device.races import races

    report = DeviceReport(
        benchmark="device",
        device=options.device,
        findings=tuple(findings),
        races=races(options.model, options.device, common.say) if RACES in wanted else [],
        seconds=time.monotonic() - began,
    )
    common.publish(report, options.output)
    return 1 if report.fails else 0


def _processes(device: str) -> Apart:
    """How processes reach the device: forked, or started afresh where that fails. UserError where
    it cannot be reached at all."""
    from latentdiff.bench.device.apart import Apart

    problem = ""
    for forked in (True, False):
        apart = Apart(forked=forked)
        try:
            apart.call("latentdiff.bench.device.inside:reach", {"device": device})
            return apart
        except RuntimeError as error:
            problem = str(error)
    raise UserError(f"device {device} cannot be used: {problem}; DEVICE=cpu rehearses the checks")


def _findings(
    options: Options, folder: Path, processes: Apart, wanted: Sequence[str]
) -> list[Finding]:
    from latentdiff.bench.device.checks import CHECKS
    from latentdiff.bench.device.page import check_all
    from latentdiff.bench.device.place import Place

    place = Place(device=options.device, folder=folder, model=options.model, apart=processes)
    common.say("making a small model")
    place.prepare()
    return check_all(place, {n: c for n, c in CHECKS.items() if n in wanted}, say=common.say)
