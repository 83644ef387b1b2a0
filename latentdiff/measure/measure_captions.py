"""Does a network listen to its captions? How much the right one helps, by timestep.

Pictures are noised to a timestep, and the network answers with the caption that is true and with
others that are not. Where all answers are alike the caption is not heard; the subject is settled
at the noisiest timesteps, or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff import seeding
from latentdiff.diffusion.forward_process import q_sample
from latentdiff.diffusion.prediction import to_x_0
from latentdiff.errors import UserError
from latentdiff.evaluation.paired import Estimate, clustered_mean
from latentdiff.evaluation.protocol import Item
from latentdiff.evaluation.result_table import table
from latentdiff.measure.conditioned_latents import encode
from latentdiff.measure.drawing import Drawing
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.picture_sets import PART, PictureSet
from latentdiff.scenes.captions import prompt

TIMESTEPS = (999, 900, 800, 600, 400, 200)
TRUE = "true caption"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CaptionsReport:
    """errors: by kind of caption, of N pictures at K timesteps (N, K); see `measure_captions`."""

    model: str
    pictures: str
    timesteps: tuple[int, ...]
    errors: Mapping[str, NDArray[np.float64]]

    def worse(self, kind: str, column: int) -> Estimate:
        """How much larger the error is than with the true caption, paired by picture."""
        more = self.errors[kind][:, column] - self.errors[TRUE][:, column]
        return clustered_mean(more, [str(n) for n in range(len(more))])

    def table(self) -> str:
        """A row for each timestep: the error with the true caption, and what others add to it."""
        others = [kind for kind in self.errors if kind != TRUE]
        rows = []
        for k, t in enumerate(self.timesteps):
            found = (self.worse(kind, k) for kind in others)
            cells = [f"+{e.mean:.4f} ± {e.standard_error:.4f}".replace("+-", "-") for e in found]
            rows.append([str(t), f"{self.errors[TRUE][:, k].mean():.4f}", *cells])
        count = len(self.errors[TRUE])
        said = f"{count} pictures of {self.pictures}, {self.model}; mean square of v's error"
        return f"{table(['t', TRUE, *others], rows)}\n\n{said}, and what other captions add"

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        errors = {kind: values.tolist() for kind, values in self.errors.items()}
        facts = {"model": self.model, "pictures": self.pictures, "timesteps": self.timesteps}
        return {"measurement": "captions", **facts, "errors": errors}


@torch.no_grad()
def measure_captions(
    model: MeasuredModel,
    pictures: PictureSet,
    items: Sequence[Item],
    timesteps: Sequence[int] = TIMESTEPS,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionsReport:
    """The errors of v with the true caption, with none, with another picture's, and, of scenes with
    one subject, with another subject and with another setting in its place.

    v = √ᾱ ε − √(1−ᾱ) x_0 (Salimans & Ho 2022) is of one size at all timesteps, whatever the network
    predicts; near pure noise it is x_0. Noise is the same for all captions of a picture. progress:
    called with (answers, of how many), a picture under a caption being one.
    """
    limit = len(model.pipeline.bundle.scheduler_config.noise_schedule().alpha_bar)
    if not timesteps or not all(0 <= t < limit for t in timesteps):
        raise UserError(f"timesteps are {list(timesteps)}, expected some of 0 … {limit - 1}")
    kinds = captions(items)
    # Guidance mixes two answers; here each is looked at alone.
    plain = Drawing(request=dataclasses.replace(Drawing().request, guidance_scale=1.0))
    errors: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    done, total = 0, len(pictures) * len(kinds)
    for start in range(0, len(pictures), PART):
        rows = range(start, min(start + PART, len(pictures)))
        for kind, texts in kinds.items():
            told = [dataclasses.replace(i, prompt=w) for i, w in zip(items, texts, strict=True)]
            data = encode(model, pictures, told, rows, plain)
            answer = data.predict()
            found = [_errors(model, answer, data.latents, data.rows, t) for t in timesteps]
            errors[kind].append(torch.stack(found, dim=1))
            done += len(rows)
            if progress is not None:
                progress(done, total)
    return CaptionsReport(
        model=model.name,
        pictures=pictures.name,
        timesteps=tuple(timesteps),
        errors={kind: torch.cat(parts).double().cpu().numpy() for kind, parts in errors.items()},
    )


def captions(items: Sequence[Item]) -> dict[str, list[str]]:
    """By kind: what each picture is said to be."""
    said = [item.prompt for item in items]
    kinds = {TRUE: said, "none": ["" for _ in said], "another's": _others(said)}
    if items and all(len(item.subjects) == 1 and item.setting for item in items):
        subjects = _others([item.subjects for item in items])
        settings = _others([item.setting for item in items])
        kinds["other subject"] = [
            prompt(other, item.setting) for item, other in zip(items, subjects, strict=True)
        ]
        kinds["other setting"] = [
            prompt(item.subjects, other) for item, other in zip(items, settings, strict=True)
        ]
    return kinds


def _others(values: Sequence[T]) -> list[T]:
    """For each place, the next place's value that differs from its own."""
    found = []
    for k, mine in enumerate(values):
        later = (values[(k + step) % len(values)] for step in range(1, len(values)))
        other = next((value for value in later if value != mine), None)
        if other is None:
            raise UserError("all captions are the same: nothing else can be said of a picture")
        found.append(other)
    return found


def _errors(
    model: MeasuredModel, answer: Any, latents: Tensor, rows: Sequence[int], t: int
) -> Tensor:
    """(n,) mean squares of v's error at timestep t; noise is addressed by row and timestep."""
    config = model.pipeline.bundle.scheduler_config
    schedule = config.noise_schedule()
    drawn = [seeding.standard_normal(tuple(latents.shape[1:]), 0, "captions", t, r) for r in rows]
    eps = torch.from_numpy(np.stack(drawn)).to(latents)
    at = torch.full((len(rows),), t, device=latents.device)
    x_t = q_sample(latents, at, eps, schedule)
    alpha_bar = schedule.alpha_bar.to(latents)[at]
    x_0 = to_x_0(answer(x_t, at), x_t, alpha_bar, prediction_type=config.prediction_type)
    # v's error is x_0's over √(1−ᾱ), at one and the same x_t.
    squares = (x_0 - latents).square().flatten(1).mean(dim=1)
    return squares / (1.0 - alpha_bar)
