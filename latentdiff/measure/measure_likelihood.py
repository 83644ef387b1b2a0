"""The variational bound of a model's latents, term by term, at several numbers of levels.

A network trained on T timesteps is also a hierarchy of fewer levels: those of an even grid of the
timesteps, with the same ᾱ (Nichol & Dhariwal 2021, section 4). The bound is of the latents'
density, given their captions; what the autoencoder loses is not in it, and bits may be negative.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff import seeding
from latentdiff.diffusion import timesteps as grids
from latentdiff.diffusion.bound import ReverseProcess, sampled_bound
from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.errors import UserError
from latentdiff.evaluation.paired import Estimate, clustered_mean
from latentdiff.evaluation.protocol import Item
from latentdiff.measure.conditioned_latents import encode
from latentdiff.measure.drawing import Drawing
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.picture_sets import PART, PictureSet
from latentdiff.measure.results.plots import Chart, Line
from latentdiff.measure.results.report import Report, Table
from latentdiff.measure.results.store import Arrays, ResultStore, Work

BINS = 10
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, kw_only=True)
class Levels:
    """A hierarchy of `count` levels on a model's schedule; timesteps: what its network is told."""

    count: int
    timesteps: tuple[int, ...]
    schedule: NoiseSchedule


def levels_of(schedule: NoiseSchedule, count: int) -> Levels:
    """An even grid of `count` timesteps down from the noisiest. UserError for more than T."""
    T = schedule.num_train_timesteps
    if not 2 <= count <= T:
        raise UserError(f"{count} levels are out of range; expected 2 … {T}")
    told = tuple(int(step.t) for step in reversed(grids.grid(T, count, "trailing")))
    alpha_bar = schedule.alpha_bar[list(told)]
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    return Levels(count=count, timesteps=told, schedule=NoiseSchedule(1.0 - alpha_bar / before))


@dataclass(frozen=True, kw_only=True)
class BoundTerms:
    """Of N pictures, in nats: prior, decoder, total (N,); level, term (N, K): the middle terms."""

    levels: int
    dimensions: int
    prior: NDArray[np.float64]
    decoder: NDArray[np.float64]
    total: NDArray[np.float64]
    level: NDArray[np.int64]
    term: NDArray[np.float64]

    def bits(self, nats: NDArray[np.float64]) -> Estimate:
        """The mean over pictures in bits per dimension, with its standard error."""
        return clustered_mean(nats / (self.dimensions * math.log(2)), [str(n) for n in
                              range(len(nats))])  # fmt: skip

    def profile(self, bins: int = BINS) -> tuple[list[float], list[float], list[float]]:
        """(share of the levels, mean term, its standard error) in bits per dimension, by bins."""
        place = (self.level - 1) / max(1, self.levels - 1)
        which = np.minimum((place * bins).astype(int), bins - 1)
        found: tuple[list[float], list[float], list[float]] = ([], [], [])
        for k in range(bins):
            terms = self.term[which == k] / (self.dimensions * math.log(2))
            if len(terms) > 1:
                found[0].append((k + 0.5) / bins)
                found[1].append(float(terms.mean()))
                found[2].append(float(terms.std(ddof=1) / math.sqrt(len(terms))))
        return found


@dataclass(frozen=True, kw_only=True)
class LikelihoodSettings:
    """levels: numbers of them. terms: K of the middle terms of every picture. variance: σ² = β
    ("fixed_large") or β̃ ("fixed_small")."""

    levels: Sequence[int] = (100, 200, 1000)
    terms: int = 16
    variance: str = "fixed_small"

    def __post_init__(self) -> None:
        if self.terms < 1:
            raise UserError(f"terms is {self.terms}, expected at least 1")


def measure_likelihood(
    model: MeasuredModel,
    pictures: PictureSet,
    items: Sequence[Item],
    settings: LikelihoodSettings,
    work: Work,
) -> list[BoundTerms]:
    """The terms at every number of levels; [] for one share of several."""
    schedule = model.pipeline.bundle.scheduler_config.noise_schedule()
    ladders = [levels_of(schedule, count) for count in settings.levels]
    parts = [range(k, min(k + PART, len(pictures))) for k in range(0, len(pictures), PART)]
    pieces = [(ladder, rows) for ladder in ladders for rows in parts]
    pieces = [piece for number, piece in enumerate(pieces) if work.share.mine(number)]

    def key(ladder: Levels, rows: range) -> dict[str, Any]:
        return {
            **pictures.key(rows),
            "kind": "bound",
            "weights": model.digests,
            "dtype": model.dtype_name,
            "levels": ladder.count,
            "terms": settings.terms,
            "variance": settings.variance,
            "prompts": [items[row].prompt for row in rows],
        }

    missing = [(ladder, rows) for ladder, rows in pieces if not work.store.has(key(ladder, rows))]
    calls = settings.terms + 1
    total, done = sum(len(rows) * calls for _, rows in missing), 0
    for ladder, rows in missing:
        work.store.put(key(ladder, rows), _terms(model, pictures, items, rows, ladder, settings))
        done += len(rows) * calls
        work.tell(done, total)
    if not work.whole:
        return []
    return [
        _joined(work.store, ladder, [key(ladder, rows) for rows in parts]) for ladder in ladders
    ]


def _terms(
    model: MeasuredModel,
    pictures: PictureSet,
    items: Sequence[Item],
    rows: range,
    ladder: Levels,
    settings: LikelihoodSettings,
) -> Arrays:
    # Guidance is no density: the bound is of the conditional network alone.
    plain = Drawing(request=dataclasses.replace(Drawing().request, guidance_scale=1.0))
    data = encode(model, pictures, items, rows, plain)
    answer = data.predict()
    told = torch.tensor(ladder.timesteps)
    process = ReverseProcess(
        predict=lambda x, t: answer(x, told[t].to(x.device)),
        schedule=ladder.schedule,
        prediction_type=model.pipeline.bundle.scheduler_config.prediction_type,
        variance=settings.variance,
    )
    level = _strata(data.rows, ladder.count, settings.terms)
    shape, turn = tuple(data.latents.shape[1:]), 0

    def noise() -> Tensor:
        nonlocal turn
        turn += 1
        address = ("bound", ladder.count, turn)
        drawn = [seeding.standard_normal(shape, 0, *address, row) for row in data.rows]
        return torch.from_numpy(np.stack(drawn)).to(data.latents.device)

    with torch.no_grad():
        bound = sampled_bound(process, data.latents, level, noise)
    return {
        "prior": bound.prior.cpu().numpy(),
        "decoder": bound.steps[:, 0].cpu().numpy(),
        "term": bound.steps[:, 1:].cpu().numpy(),
        "total": bound.total.cpu().numpy(),
        "level": level.numpy(),
        "dimensions": np.array(data.latents[0].numel()),
    }


def _strata(rows: Sequence[int], levels: int, terms: int) -> Tensor:
    """(N, K) levels in 1 … levels − 1, one from each of K equal parts.

    Within its part a level follows the golden ratio from picture to picture, so that all pictures
    together cover the part evenly: the terms are steep at the clean end.
    """
    first = np.array([seeding.uniform(0, "bound levels", k) for k in range(terms)])
    inside = (first + _GOLDEN * np.asarray(rows)[:, None]) % 1.0
    place = (np.arange(terms) + inside) / terms * (levels - 1)
    return torch.from_numpy(1 + np.minimum(place.astype(np.int64), levels - 2))


def _joined(store: ResultStore, ladder: Levels, keys: Sequence[dict[str, Any]]) -> BoundTerms:
    parts = [store.get(key) for key in keys]
    if any(part is None for part in parts):
        raise UserError(f"a part in {store.folder} is damaged; delete the folder and run again")
    found = [part for part in parts if part is not None]

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([part[name] for part in found])

    return BoundTerms(
        levels=ladder.count,
        dimensions=int(found[0]["dimensions"]),
        prior=column("prior"),
        decoder=column("decoder"),
        total=column("total"),
        level=column("level"),
        term=column("term"),
    )


def likelihood_report(
    model: MeasuredModel, name: str, found: Sequence[BoundTerms], settings: LikelihoodSettings
) -> Report:
    """A row a number of levels, and the middle terms along the way."""
    rows, lines, ladder = [], [], []
    for terms in found:
        prior, decoder, total = (
            terms.bits(nats) for nats in (terms.prior, terms.decoder, terms.total)
        )
        middle = terms.bits(terms.total - terms.prior - terms.decoder)
        cells = [_estimate(e) for e in (prior, middle, decoder, total)]
        rows.append([f"{terms.levels}", str(total.n), *cells])
        x, y, error = terms.profile()
        scaled = [(terms.levels - 1) * value for value in y]
        spread = [1.96 * (terms.levels - 1) * value for value in error]
        lines.append(
            Line(
                name=f"T = {terms.levels}",
                x=x,
                y=scaled,
                low=[a - b for a, b in zip(scaled, spread, strict=True)],
                high=[a + b for a, b in zip(scaled, spread, strict=True)],
            )
        )
        ladder.append(_level_numbers(terms, total, (x, y, error)))
    return Report(
        title=f"The bound of {model.name} on {name}",
        lead=f"{len(found[0].total)} pictures of {name}, {found[0].dimensions} numbers in the "
        f"latents of each, {model.name} given the captions, σ² {settings.variance}, "
        f"{settings.terms} middle terms a picture; bits per dimension ± standard error",
        tables=[
            Table(
                title="The bound",
                header=["levels T", "n", "L_T (prior)", "Σ L_t (middle)", "L_0 (decoder)", "total"],
                rows=rows,
            )
        ],
        charts=[
            Chart(
                name="terms",
                title="Bits per dimension by level: the area below is the middle of the bound",
                x_label="level t/T (0: nearest to the data)",
                y_label="(T − 1) · L_t, bits per dimension",
                log_y=True,
                lines=lines,
            )
        ],
        numbers={"levels": ladder, "data": name},
        notes=(
            "L_0 is of a density, so it is negative where the decoder is narrower than a unit, and "
            "totals compare only on the same latents. Levels are spread evenly over all pictures, "
            "which standard errors over pictures do not know: they are too large.",
        ),
    )


def _estimate(value: Estimate) -> str:
    return f"{value.mean:.4f} ± {value.standard_error:.4f}"


def _level_numbers(terms: BoundTerms, total: Estimate, profile: Any) -> dict[str, Any]:
    x, y, error = profile
    low, high = total.interval()
    return {
        "levels": terms.levels,
        "bits_per_dimension": total.mean,
        "low": low,
        "high": high,
        "prior": terms.bits(terms.prior).mean,
        "decoder": terms.bits(terms.decoder).mean,
        "profile": {"place": x, "bits_of_a_term": y, "standard_error": error},
    }
