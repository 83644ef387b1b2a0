"""How far one set of pictures is from another: a model's or a folder's, from data or scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentdiff.evaluation.paired import clustered_mean
from latentdiff.evaluation.sets import frechet
from latentdiff.evaluation.sets.frechet import Extrapolation, Moments
from latentdiff.evaluation.sets.kernel_distance import cmmd, kid
from latentdiff.evaluation.sets.memorisation import MemorisationProbe, memorisation
from latentdiff.evaluation.sets.precision_recall import PrecisionRecall, precision_recall
from latentdiff.evaluation.sets.resampling import Interval
from latentdiff.evaluation.sets.retrieval import RPrecision, r_precision
from latentdiff.measure.picture_sets import Readings
from latentdiff.measure.results.plots import Chart, Line
from latentdiff.measure.results.report import Report, Table, interval, share
from latentdiff.sheet import Cell, labelled_sheet

MOST_CANDIDATES = 100


@dataclass(frozen=True, kw_only=True)
class SetDistances:
    """first against second, by the same features; None where it cannot be said.

    limit: the Fréchet distance for infinitely many samples. cmmd: of CLIP features alone.
    memorised: the first set against the second as its training data, beside held-out data.
    """

    frechet: Interval
    limit: Extrapolation | None
    kid: Interval
    cmmd: Interval | None
    spread: PrecisionRecall
    memorised: MemorisationProbe | None = None
    retrieval: RPrecision | None = None
    clip_score: tuple[float, float, float] | None = None


def set_distances(
    first: Readings,
    second: Readings,
    *,
    is_clip: bool,
    held_out: Readings | None = None,
    prompts: Sequence[str] = (),
) -> SetDistances:
    """All distances of two gathered sets of at least 4 pictures."""
    a, b = first.features, second.features
    groups = min(20, len(a), len(b))
    retrieval, score = None, None
    if "text" in first.arrays:
        image, text = first.arrays["image"], first.arrays["text"]
        candidates = min(MOST_CANDIDATES, len(set(prompts)))
        if candidates >= 2:
            retrieval = r_precision(image, text, prompts, candidates=candidates)
        cosines = 100.0 * (image * text).sum(axis=1).clip(min=0).astype(np.float64)
        mean = clustered_mean(cosines, list(prompts))
        score = (mean.mean, *mean.interval())
    return SetDistances(
        frechet=frechet.frechet(a, Moments.of(b), groups=groups),
        limit=frechet.extrapolated(a, Moments.of(b), groups=groups) if len(a) >= 40 else None,
        kid=kid(a, b, groups=groups),
        cmmd=cmmd(a, b, groups=groups) if is_clip else None,
        spread=precision_recall(a, b),
        memorised=None if held_out is None else memorisation(a, b, held_out.features),
        retrieval=retrieval,
        clip_score=score,
    )


def images_report(
    first: Readings,
    second: Readings,
    found: SetDistances,
    *,
    features: str,
    prompts: Sequence[str] = (),
) -> Report:
    """Tables, the line of the extrapolation, and both sets side by side."""
    rows = [
        ["Fréchet distance", interval(found.frechet)],
        *([["… for N → ∞", interval(found.limit.limit)]] if found.limit else []),
        ["kernel distance (KID) × 1000", _thousandth(found.kid)],
        *([["CMMD", interval(found.cmmd)]] if found.cmmd else []),
        ["precision, %", share(found.spread.precision)],
        ["recall, %", share(found.spread.recall)],
        ["density", interval(found.spread.density)],
        ["coverage, %", share(found.spread.coverage)],
    ]
    if found.clip_score is not None:
        mean, low, high = found.clip_score
        rows.append(["CLIP score", f"{mean:.2f} [{low:.2f}, {high:.2f}]"])
    if found.retrieval is not None:
        low, high = found.retrieval.mean.interval()
        name = f"CLIP R-precision of {found.retrieval.candidates}, %"
        rows.append([name, f"{100 * found.retrieval.mean.mean:.1f} [{100 * low:.1f}, "
                     f"{100 * high:.1f}]"])  # fmt: skip
    if (probe := found.memorised) is not None:
        rows.append(["copies of the second set, %", share(probe.copies)])
        rows.append(["… held-out pictures that would pass for copies, %",
                     share(probe.held_out_copies)])  # fmt: skip
        rows.append(["nearer to it than held-out pictures (1/2: no)",
                     f"{probe.nearer:.3f}, p = {probe.p_value:.2g}"])  # fmt: skip
    charts = [_line(found.limit)] if found.limit else []
    return Report(
        title=f"{first.name} against {second.name}",
        lead=f"{len(first)} pictures of {first.name} against {len(second)} of {second.name}, "
        f"features of {features} ({first.features.shape[1]} numbers), 95 % intervals",
        tables=[Table(title="Distances", header=["measure", "value"], rows=rows)],
        charts=charts,
        sheets={"pictures": _sheet(first, second, prompts)},
        numbers=_numbers(first, second, found, features),
        notes=(
            "The Fréchet distance of N pictures is too large by about c/N: compare it only at "
            "equal N, or take N → ∞. KID has no such bias. The second set counts as fixed.",
        ),
    )


def _thousandth(value: Interval) -> str:
    return f"{1e3 * value.value:.3f} [{1e3 * value.low:.3f}, {1e3 * value.high:.3f}]"


def _line(found: Extrapolation) -> Chart:
    inverse = [1.0 / size for size in found.sizes]
    end = max(inverse)
    return Chart(
        name="extrapolation",
        title="Fréchet distance over 1/N, and its limit",
        x_label="1/N",
        y_label="Fréchet distance",
        lines=[
            Line(name="measured", x=inverse, y=found.distances, points=True),
            Line(
                name=f"fit: {found.limit.value:.3f} + {found.slope:.1f}/N",
                x=[0.0, end],
                y=[found.limit.value, found.limit.value + found.slope * end],
                reference=True,
            ),
            Line(
                name="limit, 95 %",
                x=[0.0],
                y=[found.limit.value],
                low=[found.limit.low],
                high=[found.limit.high],
                points=True,
            ),
        ],
    )


def _sheet(first: Readings, second: Readings, prompts: Sequence[str]) -> Any:
    cells = []
    for readings, texts in ((first, list(prompts)), (second, [])):
        for n, picture in enumerate(readings.pictures(16)):
            label = texts[n] if n < len(texts) else readings.name
            cells.append(Cell(picture=picture, label=label))
    return labelled_sheet(cells, columns=8)


def _numbers(
    first: Readings, second: Readings, found: SetDistances, features: str
) -> dict[str, Any]:
    spread, probe = found.spread, found.memorised
    return {
        "first": {"name": first.name, "pictures": len(first)},
        "second": {"name": second.name, "pictures": len(second)},
        "features": features,
        "frechet": found.frechet.to_json(),
        "frechet_limit": found.limit.limit.to_json() if found.limit else None,
        "kid": found.kid.to_json(),
        "cmmd": found.cmmd.to_json() if found.cmmd else None,
        "precision": spread.precision.to_json(),
        "recall": spread.recall.to_json(),
        "density": spread.density.to_json(),
        "coverage": spread.coverage.to_json(),
        "clip_score": found.clip_score,
        "r_precision": None if found.retrieval is None else found.retrieval.mean.mean,
        "memorisation": None
        if probe is None
        else {
            "copies": probe.copies.to_json(),
            "held_out_copies": probe.held_out_copies.to_json(),
            "nearer": probe.nearer,
            "p_value": probe.p_value,
        },
    }
