"""Two models on the same prompts and seeds: paired differences, and which are significant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.distances import psnr
from latentdiff.evaluation.intervals import wilson
from latentdiff.evaluation.paired import Estimate, clustered_mean, mcnemar
from latentdiff.evaluation.protocol import Item
from latentdiff.evaluation.sets.frechet import Moments, distance_of, paired_difference
from latentdiff.evaluation.sets.kernel_distance import kid
from latentdiff.evaluation.sets.resampling import Interval
from latentdiff.measure.picture_sets import Readings
from latentdiff.measure.results.plots import Chart, Line
from latentdiff.measure.results.report import Report, Table, interval, share
from latentdiff.sheet import Cell, labelled_sheet


@dataclass(frozen=True, kw_only=True)
class PairedShare:
    """How often first and second are right on the same pictures (N,).

    difference: first − second with its standard error over pictures; p_value: McNemar's, exact.
    """

    name: str
    first: NDArray[np.bool_]
    second: NDArray[np.bool_]

    @property
    def difference(self) -> Estimate:
        return clustered_mean(
            self.first.astype(np.float64) - self.second,
            [str(n) for n in range(len(self.first))],
        )

    @property
    def p_value(self) -> float:
        only = self.first & ~self.second, self.second & ~self.first
        return mcnemar(int(only[0].sum()), int(only[1].sum()))


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """frechet: of each; frechet_difference: first − second, groups of pictures left out of both
    together. clip: the paired difference of CLIP scores. psnr: between the pictures, (N,)."""

    first: Readings
    second: Readings
    shares: Sequence[PairedShare]
    frechet: tuple[float, float]
    frechet_difference: Interval
    kid: tuple[Interval, Interval]
    clip: Estimate | None
    psnr: NDArray[np.float64] | None


def compare(first: Readings, second: Readings, scenes: Readings) -> ModelComparison:
    """Two sets whose pictures k have the same prompt and seed, against the same scenes."""
    fixed = Moments.of(scenes.features)
    groups = min(20, len(first))
    wholes = [Moments.of(r.features) for r in (first, second)]
    clip = None
    if "text" in first.arrays and "text" in second.arrays:
        scores = [100.0 * (r.arrays["image"] * r.arrays["text"]).sum(axis=1) for r in
                  (first, second)]  # fmt: skip
        clip = clustered_mean(
            (scores[0] - scores[1]).astype(np.float64), [str(n) for n in range(len(first))]
        )
    named = [name for name in ("subject", "setting") if name in first.arrays]
    of_one_size = next(first.pictures(1)).shape == next(second.pictures(1)).shape
    decibels = [
        float(psnr(a[None], b[None])[0])
        for a, b in (zip(first.pictures(), second.pictures(), strict=True) if of_one_size else ())
    ]
    return ModelComparison(
        first=first,
        second=second,
        shares=[
            PairedShare(name=name, first=first.arrays[name], second=second.arrays[name])
            for name in named
        ],
        frechet=(distance_of(wholes[0], fixed), distance_of(wholes[1], fixed)),
        frechet_difference=paired_difference(first.features, second.features, fixed, groups=groups),
        kid=(
            kid(first.features, scenes.features, groups=min(groups, len(scenes))),
            kid(second.features, scenes.features, groups=min(groups, len(scenes))),
        ),
        clip=clip,
        psnr=np.asarray(decibels) if of_one_size else None,
    )


def comparison_report(found: ModelComparison, items: Sequence[Item], features: str) -> Report:
    """A row a measure: first, second, their difference, and whether it is significant."""
    rows = []
    for paired in found.shares:
        counts = [wilson(int(r.sum()), len(r)) for r in (paired.first, paired.second)]
        low, high = paired.difference.interval()
        rows.append(
            [
                f"{paired.name} right, %",
                *map(share, counts),
                f"{100 * paired.difference.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                _verdict(paired.p_value),
            ]
        )
    difference = found.frechet_difference
    rows.append(
        [
            "Fréchet distance",
            *(f"{value:.3f}" for value in found.frechet),
            f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]",
            _outside(difference.low, difference.high),
        ]
    )
    rows.append(["KID", *map(interval, found.kid), "", ""])
    if found.clip is not None:
        low, high = found.clip.interval()
        mean = f"{found.clip.mean:+.2f} [{low:+.2f}, {high:+.2f}]"
        rows.append(["CLIP score", "", "", mean, _outside(low, high)])
    if found.psnr is not None:
        rows.append(["PSNR between their pictures, dB", "", "", f"{found.psnr.mean():.2f}", ""])
    seconds = [float(r.seconds.mean()) for r in (found.first, found.second)]
    calls = [float(r.calls.mean()) for r in (found.first, found.second)]
    rows.append(["calls of the network", *(f"{c:.0f}" for c in calls), "", ""])
    rows.append(["seconds a picture", *(f"{s:.2f}" for s in seconds), "", ""])
    names = [found.first.name, found.second.name]
    return Report(
        title=f"{names[0]} against {names[1]}",
        lead=f"{len(found.first)} pictures of each, the same prompts and seeds, paired; distances "
        f"from the world's scenes by {features}, 95 % intervals",
        tables=[
            Table(
                title="First, second, and first − second",
                header=["measure", *names, "difference", "significant"],
                rows=rows,
            )
        ],
        charts=[_chart(found)] if found.shares else [],
        sheets={"pictures": _sheet(found, items)},
        numbers=_numbers(found),
        notes=(
            "Shares are compared by McNemar's exact test, the other differences by whether their "
            "interval leaves out 0 (5 %). CLIP scores of models with other CLIP towers do not "
            "compare.",
        ),
    )


def _verdict(p_value: float) -> str:
    return f"{'yes' if p_value < 0.05 else 'no'}, p = {p_value:.2g}"


def _outside(low: float, high: float) -> str:
    return "yes" if low > 0 or high < 0 else "no"


def _chart(found: ModelComparison) -> Chart:
    lines = []
    for k, readings in enumerate((found.first, found.second)):
        shares = [wilson(int(r.sum()), len(r)) for r in
                  ((p.first, p.second)[k] for p in found.shares)]  # fmt: skip
        lines.append(
            Line(
                name=readings.name,
                x=[n + 0.16 * (2 * k - 1) for n in range(len(shares))],
                y=[100 * s.value for s in shares],
                low=[100 * s.low for s in shares],
                high=[100 * s.high for s in shares],
                points=True,
            )
        )
    return Chart(
        name="shares",
        title="Named right by the judge, %",
        x_label="",
        y_label="%",
        lines=lines,
        names=[p.name for p in found.shares],
    )


def _sheet(found: ModelComparison, items: Sequence[Item]) -> Any:
    cells = []
    pairs = zip(found.first.pictures(16), found.second.pictures(16), items, strict=False)
    for n, (one, other, item) in enumerate(pairs):
        for letter, picture, readings in (("A", one, found.first), ("B", other, found.second)):
            right = readings.arrays["subject"][n] if "subject" in readings.arrays else None
            label = f"{letter}: {item.prompt}"
            cells.append(
                Cell(picture=picture, label=label, right=None if right is None else bool(right))
            )
    return labelled_sheet(cells, columns=8)


def _numbers(found: ModelComparison) -> dict[str, Any]:
    return {
        "models_compared": [found.first.name, found.second.name],
        "pictures": len(found.first),
        "shares": {
            p.name: {
                "first": float(p.first.mean()),
                "second": float(p.second.mean()),
                "difference": p.difference.mean,
                "standard_error": p.difference.standard_error,
                "p_value": p.p_value,
            }
            for p in found.shares
        },
        "frechet": found.frechet,
        "frechet_difference": found.frechet_difference.to_json(),
        "kid": [one.to_json() for one in found.kid],
        "clip_difference": None if found.clip is None else found.clip.mean,
        "psnr": None if found.psnr is None else float(found.psnr.mean()),
    }
