"""A grid over settings, and in each cell how good the pictures are: the same prompts and seeds.

Of each cell: calls of the network, Fréchet and kernel distance from the world's scenes, what the
judge sees, seconds, and how far its pictures are from those of a reference cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentdiff.errors import UserError
from latentdiff.evaluation.distances import psnr
from latentdiff.evaluation.intervals import Proportion, wilson
from latentdiff.evaluation.protocol import Item
from latentdiff.evaluation.sets import frechet
from latentdiff.evaluation.sets.frechet import Moments
from latentdiff.evaluation.sets.kernel_distance import kid
from latentdiff.evaluation.sets.resampling import Interval
from latentdiff.measure.drawing import Drawing
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.picture_sets import (
    DrawnPictures,
    PictureSet,
    Readers,
    Readings,
    gather,
)
from latentdiff.measure.results.store import Work
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.sweep import Axis, parse_axis, with_value

FEWEST = 8
WITH = "with"
"""An axis of whole settings: with=eta=0|eta=0.5|scheduler=ddim-sigma-hat, joined by +."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """values: by axis, as written; count: of pictures; request: without prompt and seed."""

    values: dict[str, str]
    request: Request
    count: int


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """readings: of the cell's pictures. psnr (dB), likeness (cosine of features): of each of its
    pictures with the reference cell's; difference: of its Fréchet distance from that cell's, over
    the pictures that both have, paired. None for that cell, and where there is none. common: the
    Fréchet distance of as many pictures as the smallest cell has, which charts compare."""

    cell: Cell
    readings: Readings
    frechet: Interval
    kid: Interval
    subject: Proportion | None
    setting: Proportion | None
    psnr: NDArray[np.float64] | None
    likeness: NDArray[np.float64] | None
    difference: Interval | None
    common: Interval

    @property
    def calls(self) -> float:
        """Of the network, for one picture."""
        return float(self.readings.calls.mean())


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """One or two axes, as `parse_axis` reads them."""
    axes = tuple(map(parse_axis, texts))
    if not 1 <= len(axes) <= 2 or len({axis.name for axis in axes}) < len(axes):
        raise UserError(f"{len(axes)} sweeps were given; expected one or two, of different names")
    return axes


def make_cells(
    base: Request,
    axes: Sequence[Axis],
    model: MeasuredModel,
    count: int,
    most_calls: int | None = None,
) -> list[Cell]:
    """Every combination, the first axis running fastest.

    most_calls: of the network in a cell; where `count` pictures need more, fewer are drawn, but
    FEWEST at least.
    """
    cells = []
    for values in itertools.product(*(axis.values for axis in reversed(axes))):
        request = base
        for axis, value in zip(reversed(axes), values, strict=True):
            request = _changed(request, axis, value)
        number = count
        if most_calls is not None:
            probe = DrawnPictures(model=model, items=(), drawing=Drawing(request=request))
            number = max(min(FEWEST, count), min(count, most_calls // probe.cost()))
        named = zip((axis.name for axis in axes), values[::-1], strict=True)
        cells.append(Cell(values=dict(named), request=request, count=number))
    return cells


def _changed(request: Request, axis: Axis, value: str) -> Request:
    if axis.name != WITH:
        return with_value(request, axis, value)
    for part in value.split("+"):
        if part.strip() in ("", "nothing"):
            continue
        one = parse_axis(part)
        request = with_value(request, one, one.values[0])
    return request


def measure_sweep(
    model: MeasuredModel,
    items: Sequence[Item],
    cells: Sequence[Cell],
    reference: PictureSet,
    readers: Readers,
    work: Work,
    *,
    batch_size: int = 16,
    reference_cell: Mapping[str, str] | None = None,
) -> list[CellResult]:
    """Draw and measure every cell; [] for one share of several.

    reference_cell: axis → value; a cell is held against the one that has these values, and its own
    in all other axes. Raises UserError where an axis of that name is not swept.
    """
    sets: list[PictureSet] = [
        DrawnPictures(
            model=model,
            items=items[: cell.count],
            drawing=Drawing(request=cell.request, batch_size=batch_size),
            name=", ".join(cell.values.values()),
        )
        for cell in cells
    ]
    gathered = gather(work, [reference, *sets], readers)
    if not gathered:
        return []
    scenes, *drawn = gathered
    fixed, least = Moments.of(scenes.features), min(map(len, drawn))
    by_values = {_place(cell.values): r for cell, r in zip(cells, drawn, strict=True)}
    results = []
    for cell, readings in zip(cells, drawn, strict=True):
        aim = _aim(cell, reference_cell)
        other = None if aim is None else by_values.get(_place(aim))
        beside = None if other is None or other is readings else _beside(readings, other, fixed)
        results.append(
            CellResult(
                cell=cell,
                readings=readings,
                frechet=frechet.frechet(
                    readings.features, fixed, groups=min(20, len(readings), len(scenes))
                ),
                kid=kid(
                    readings.features,
                    scenes.features,
                    groups=min(20, len(readings), len(scenes)),
                ),
                subject=_right(readings, "subject"),
                setting=_right(readings, "setting"),
                psnr=None if beside is None else beside[0],
                likeness=None if beside is None else beside[1],
                difference=None if beside is None else beside[2],
                common=frechet.frechet(readings.features[:least], fixed, groups=min(20, least)),
            )
        )
    return results


def _aim(cell: Cell, wanted: Mapping[str, str] | None) -> dict[str, str] | None:
    """The values of the cell that this one is held against."""
    for name in wanted or {}:
        if name not in cell.values:
            raise UserError(
                f"the reference names {name}, which is not swept: {', '.join(cell.values)}"
            )
    return {**cell.values, **wanted} if wanted else None


def _place(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(values.values())


def _beside(
    one: Readings, other: Readings, fixed: Moments
) -> tuple[NDArray[np.float64], NDArray[np.float64], Interval]:
    count = min(len(one), len(other))
    features = [r.features[:count] for r in (one, other)]
    difference = frechet.paired_difference(features[0], features[1], fixed, groups=min(20, count))
    pairs = zip(one.pictures(count), other.pictures(count), strict=True)
    decibels = [float(psnr(a[None], b[None])[0]) for a, b in pairs]
    a, b = (r.features[:count].astype(np.float64) for r in (one, other))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(decibels), (a * b).sum(axis=1) / norms, difference


def _right(readings: Readings, name: str) -> Proportion | None:
    if name not in readings.arrays:
        return None
    return wilson(int(readings.arrays[name].sum()), len(readings))
