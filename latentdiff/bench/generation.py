"""`bench generate`: the same pictures drawn by several, and by how much they differ."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentdiff.bench.drawers import Work
from latentdiff.bench.race import Entrant, Outcome, race
from latentdiff.bench.report import Race

REFERENCE = "diffusers"
"""The peer as a user calls it: what all rows are held against."""


@dataclass(frozen=True, kw_only=True)
class Drawer:
    """An entrant of this benchmark: its row's name, its maker in `drawers`, and its settings."""

    name: str
    maker: str
    exact: bool = True
    settings: tuple[tuple[str, object], ...] = ()

    def entrant(self, work: Work, threads: int) -> Entrant:
        """With the work it is to do."""
        settings = {"name": self.name, "work": work.to_json(), **dict(self.settings)}
        return Entrant(
            name=self.name,
            maker=self.maker,
            settings=settings,
            exact=self.exact,
            threads=threads,
        )


OURS = Drawer(name="latentdiff", maker="latentdiff.bench.drawers:ours")
PEERS = (
    Drawer(name=REFERENCE, maker="latentdiff.bench.drawers:diffusers"),
    Drawer(
        name="diffusers, tuned",
        maker="latentdiff.bench.drawers:diffusers",
        settings=(("tuned", True),),
    ),
)


def drawing_race(
    work: Work,
    drawers: Sequence[Drawer],
    *,
    repeats: int,
    warmups: int,
    threads: int,
    say: Callable[[str], None] = lambda line: None,
) -> Race:
    """All drawers on the same work; their pictures are compared with the first exact ones of the
    reference."""
    with tempfile.TemporaryDirectory() as folder:
        placed = replace(work, folder=folder)
        outcomes = race(
            [drawer.entrant(placed, threads) for drawer in drawers],
            repeats=repeats,
            warmups=warmups,
            say=say,
        )
        differences = compare(placed, outcomes)
    many = "a picture" if work.batch == 1 else f"{work.batch} pictures"
    return Race(
        title=f"{Path(work.model).name}, {work.width} x {work.height}, batch {work.batch}",
        work=f"{many} of {work.steps} steps, {threads} thread{'' if threads == 1 else 's'}",
        outcomes=outcomes,
        base=REFERENCE,
        extra={"levels": differences.levels, "PSNR dB": differences.psnr},
    )


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Of each drawer's pictures from the reference's: the largest, in levels of 255, and PSNR."""

    levels: dict[str, str]
    psnr: dict[str, str]


def compare(work: Work, outcomes: Sequence[Outcome]) -> Differences:
    """By how much the pictures differ that the drawers left."""
    levels: dict[str, str] = {}
    psnr: dict[str, str] = {}
    reference = work.place(REFERENCE)
    for one in outcomes:
        place = work.place(one.name)
        if one.trouble or not place.exists() or not reference.exists():
            continue
        a, b = (np.load(file).astype(np.float64) for file in (place, reference))
        error = float(((a - b) ** 2).mean())
        levels[one.name] = f"{np.abs(a - b).max():.0f}"
        psnr[one.name] = "∞" if error == 0.0 else f"{10 * np.log10(255**2 / error):.1f}"
    return Differences(levels=levels, psnr=psnr)
