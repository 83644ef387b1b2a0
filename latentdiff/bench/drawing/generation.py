"""`bench generate`: the same pictures drawn by several, and by how much they differ."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentdiff.bench.drawing.drawers import Work
from latentdiff.bench.drawing.floor import Floor
from latentdiff.bench.race import Entrant, Outcome, race
from latentdiff.bench.report import Plot, Race
from latentdiff.html.charts import Curve

REFERENCE = "diffusers"
"""The peer as a user calls it: what all rows are held against."""
HOME = "latentdiff.bench.drawing"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Drawer:
    """An entrant of this benchmark: its row's name, its maker, and its settings."""

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


OURS = Drawer(name="latentdiff", maker=f"{HOME}.drawers:ours")
DIFFUSERS = Drawer(name=REFERENCE, maker=f"{HOME}.drawers:diffusers")
PEERS: dict[str, Drawer] = {
    "tuned": Drawer(
        name="diffusers, tuned", maker=f"{HOME}.drawers:diffusers", settings=(("tuned", True),)
    ),
    "onnxruntime": Drawer(name="ONNX Runtime", maker=f"{HOME}.exported:onnxruntime"),
    "openvino": Drawer(name="OpenVINO", maker=f"{HOME}.exported:openvino"),
    "stable-diffusion-cpp": Drawer(
        name="stable-diffusion.cpp", maker=f"{HOME}.ggml:stable_diffusion_cpp"
    ),
}
"""Besides diffusers as a user calls it, by the names of the command line."""


BACKENDS: dict[str, Drawer] = {
    "openvino": Drawer(
        name="latentdiff, by OpenVINO",
        maker=f"{HOME}.drawers:ours",
        settings=(("backend", "openvino"),),
    ),
}
"""This project with its U-Net computed by another, by the names of the command line."""


def on(device: str) -> tuple[Drawer, ...]:
    """This project and diffusers, as a user calls it and tuned, on another device than the CPU."""
    where = (("device", device),)
    return tuple(
        replace(drawer, settings=(*drawer.settings, *where))
        for drawer in (OURS, DIFFUSERS, PEERS["tuned"])
    )


ROUGH: dict[str, Drawer] = {
    "bfloat16": Drawer(
        name="latentdiff, bfloat16",
        maker=f"{HOME}.drawers:ours",
        exact=False,
        settings=(("dtype", "bfloat16"),),
    ),
    "interval": Drawer(
        name="latentdiff, guided 0.2 … 0.8",
        maker=f"{HOME}.drawers:ours",
        exact=False,
        settings=(("guidance_start", 0.2), ("guidance_end", 0.8)),
    ),
    **{
        f"deepcache{interval}": Drawer(
            name=f"latentdiff, deep cache {interval}",
            maker=f"{HOME}.drawers:ours",
            exact=False,
            settings=(("deep_cache_interval", interval),),
        )
        for interval in (2, 3, 5)
    },
    **{
        f"openvino{interval}": Drawer(
            name=f"latentdiff, by OpenVINO, deep cache {interval}",
            maker=f"{HOME}.drawers:ours",
            exact=False,
            settings=(("backend", "openvino"), ("deep_cache_interval", interval)),
        )
        for interval in (2, 3)
    },
}
"""Approximate methods, by the names of the command line."""


def drawing_race(
    work: Work,
    drawers: Sequence[Drawer],
    *,
    repeats: int,
    warmups: int,
    threads: int,
    floor: bool = True,
    say: Say = lambda line: None,
) -> Race:
    """All drawers on the same work; their pictures are compared with the reference's, and the
    least time that the machine needs for it stands below."""
    with tempfile.TemporaryDirectory() as folder:
        placed = replace(work, folder=folder)
        outcomes = race(
            [drawer.entrant(placed, threads) for drawer in drawers],
            repeats=repeats,
            warmups=warmups,
            say=say,
        )
        levels, psnr = compare(placed, outcomes)
    notes = [floor_note(work, outcomes, threads, say)] if floor else []
    return Race(
        title=f"{Path(work.model).name}, {work.width} x {work.height}, batch {work.batch}",
        work=f"{work.steps} steps, {threads} thread{'' if threads == 1 else 's'}",
        outcomes=outcomes,
        base=REFERENCE,
        notes=notes,
        extra={"levels": levels, "PSNR dB": psnr},
    )


def floor_note(work: Work, outcomes: Sequence[Outcome], threads: int, say: Say) -> str:
    """The floor, and how close the first of the outcomes is to it."""
    measured = Entrant(
        name="the floor",
        maker=f"{HOME}.floor:measure",
        settings={"work": work.to_json()},
        threads=threads,
    )
    (found,) = race([measured], repeats=1, warmups=0, say=say)
    if found.trouble:
        return f"the floor was not measured: {found.trouble}"
    floor = Floor(**found.turns[0].facts)
    first = outcomes[0]
    if first.trouble:
        return floor.line()
    share = 100 * floor.seconds / first.cpu_seconds.value
    return f"{floor.line()}; {first.name} spends {share:.0f} % of its time on products"


def compare(work: Work, outcomes: Sequence[Outcome]) -> tuple[dict[str, str], dict[str, str]]:
    """By how much each drawer's pictures differ from the reference's: the largest difference, in
    levels of 255, and PSNR in dB."""
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
    return levels, psnr


def throughput(races: Sequence[tuple[int, int, Race]]) -> list[Plot]:
    """CPU-seconds a picture over batch sizes, and over sides where several were drawn.

    races: (side, batch, race).
    """
    plots = []
    names = [one.name for _, _, race in races[:1] for one in race.outcomes]
    sides, batches = {side for side, _, _ in races}, {batch for _, batch, _ in races}
    for along, title, count in (
        (True, "pictures at once", len(batches)),
        (False, "pixels of a side", len(sides)),
    ):
        if count < 2:
            continue
        first_side, first_batch, _ = races[0]
        curves = []
        for style, name in enumerate(names[:4], 1):
            points = sorted(
                (float(batch if along else side), one.cpu_seconds.value / batch)
                for side, batch, race in races
                if (side == first_side if along else batch == first_batch)
                for one in race.outcomes
                if one.name == name and not one.trouble
            )
            x, y = [p[0] for p in points], [p[1] for p in points]
            curves.append(Curve(x=x, y=y, name=name, style=style))
        plots.append(Plot(title="CPU-seconds a picture", curves=curves, x_label=title))
    return plots
