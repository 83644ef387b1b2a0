"""Encode pictures to their noise by the inverse of a sampler, and decode: DDIM's Table 2.

The error is per dimension (Song et al. 2021, section 5.4): the mean squared difference of latents
of about unit variance, and of pixels in [0, 1] from the autoencoder's own reconstruction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from latentdiff.errors import UserError
from latentdiff.evaluation.paired import Estimate, clustered_mean
from latentdiff.evaluation.protocol import Item
from latentdiff.measure.conditioned_latents import ConditionedLatents, encode
from latentdiff.measure.drawing import Drawing
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.picture_sets import PART, PictureSet
from latentdiff.measure.results.plots import Chart, Line
from latentdiff.measure.results.report import Report, Table
from latentdiff.measure.results.store import Arrays, ResultStore, Work
from latentdiff.pixels import to_pictures
from latentdiff.sampling import denoise
from latentdiff.schedulers import interop
from latentdiff.sheet import axes_sheet

PAPER = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}
"""Per-dimension error on CIFAR-10 in DDIM's Table 2, of pixels in [0, 1]."""
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class RoundTrips:
    """Of N pictures at one number of steps: mean squared errors (N,) of latents and pixels."""

    steps: int
    latents: NDArray[np.float64]
    pixels: NDArray[np.float64]
    noise_std: NDArray[np.float64]
    shown: list[NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """steps: S of the table. most_calls: of the network for each S; a large S takes fewer
    pictures, but 4 at least. guidance_scale: 1 asks the conditional network alone."""

    steps: Sequence[int] = (10, 20, 50, 100)
    most_calls: int | None = None
    guidance_scale: float = 1.0

    def count(self, steps: int, pictures: int) -> int:
        """Pictures for a number of steps."""
        if self.most_calls is None:
            return pictures
        return max(min(4, pictures), min(pictures, self.most_calls // (2 * steps)))


def measure_reconstruction(
    model: MeasuredModel,
    pictures: PictureSet,
    items: Sequence[Item],
    settings: ReconstructionSettings,
    work: Work,
) -> list[RoundTrips]:
    """There and back at every number of steps; [] for one share of several."""
    parts = {
        steps: [
            range(k, min(k + PART, settings.count(steps, len(pictures))))
            for k in range(0, settings.count(steps, len(pictures)), PART)
        ]
        for steps in settings.steps
    }
    request = dataclasses.replace(Drawing().request, guidance_scale=settings.guidance_scale)

    def key(steps: int, rows: range) -> dict[str, Any]:
        return {
            **pictures.key(rows),
            "kind": "round trip",
            "weights": model.digests,
            "dtype": model.dtype_name,
            "steps": steps,
            "guidance": settings.guidance_scale,
            "prompts": [items[row].prompt for row in rows],
        }

    pieces = [(steps, rows) for steps in settings.steps for rows in parts[steps]]
    pieces = [piece for number, piece in enumerate(pieces) if work.share.mine(number)]
    missing = [(steps, rows) for steps, rows in pieces if not work.store.has(key(steps, rows))]
    total, done = sum(2 * steps * len(rows) for steps, rows in missing), 0
    for steps, rows in missing:
        data = encode(model, pictures, items, rows, Drawing(request=request))
        work.store.put(key(steps, rows), _there_and_back(model, data, steps))
        done += 2 * steps * len(rows)
        work.tell(done, total)
    if not work.whole:
        return []
    return [_joined(work.store, s, [key(s, rows) for rows in parts[s]]) for s in settings.steps]


@torch.no_grad()
def _there_and_back(model: MeasuredModel, data: ConditionedLatents, steps: int) -> Arrays:
    config, autoencoder = model.pipeline.bundle.scheduler_config, model.pipeline.autoencoder
    x = data.latents
    for name in ("ddim-inverse", "ddim"):
        scheduler = interop.build(name, config, steps)
        for step in denoise(data.denoiser, scheduler, x, context=data.context):
            x = step.x
        if name == "ddim-inverse":
            noise_std = x.flatten(1).std(dim=1)
    error = (x - data.latents).double().square().flatten(1).mean(dim=1)
    one, other = (
        to_pictures(autoencoder.decode(latents.to(autoencoder.dtype)).float())
        for latents in (data.latents, x)
    )
    apart = (one.astype(np.float64) - other) / 255.0
    return {
        "latents": error.cpu().numpy(),
        "pixels": np.square(apart).mean(axis=(1, 2, 3)),
        "noise_std": noise_std.double().cpu().numpy(),
        "before": one[:SHOWN],
        "after": other[:SHOWN],
    }


def _joined(store: ResultStore, steps: int, keys: Sequence[dict[str, Any]]) -> RoundTrips:
    parts = [store.get(key) for key in keys]
    if any(part is None for part in parts):
        raise UserError(f"a part in {store.folder} is damaged; delete the folder and run again")
    found = [part for part in parts if part is not None]
    return RoundTrips(
        steps=steps,
        latents=np.concatenate([part["latents"] for part in found]),
        pixels=np.concatenate([part["pixels"] for part in found]),
        noise_std=np.concatenate([part["noise_std"] for part in found]),
        shown=[*found[0]["before"], *found[0]["after"]],
    )


def reconstruction_report(model: MeasuredModel, name: str, found: Sequence[RoundTrips]) -> Report:
    """A row a number of steps beside the paper's, the curve, and pictures there and back."""
    rows, numbers = [], []
    for trip in found:
        latents, pixels = _mean(trip.latents), _mean(trip.pixels)
        paper = f"{PAPER[trip.steps]:.4f}" if trip.steps in PAPER else "–"
        rows.append(
            [
                str(trip.steps),
                str(len(trip.latents)),
                *(f"{e.mean:.5f} ± {e.standard_error:.5f}" for e in (latents, pixels)),
                f"{float(trip.noise_std.mean()):.3f}",
                paper,
            ]
        )
        numbers.append(
            {
                "steps": trip.steps,
                "pictures": len(trip.latents),
                "latents": latents.mean,
                "latents_standard_error": latents.standard_error,
                "pixels": pixels.mean,
                "pixels_standard_error": pixels.standard_error,
                "noise_std": float(trip.noise_std.mean()),
            }
        )
    steps = [trip.steps for trip in found]
    curves = [
        ("latents", [float(trip.latents.mean()) for trip in found], False),
        ("pixels in [0, 1]", [float(trip.pixels.mean()) for trip in found], False),
        ("the paper's, CIFAR-10", [PAPER.get(s, float("nan")) for s in steps], True),
    ]
    return Report(
        title=f"There and back with {model.name}",
        lead=f"{name}, encoded by DDIM's inverse and decoded by DDIM in S steps each, "
        f"{model.name} told the captions; mean squared error a dimension ± standard error",
        tables=[
            Table(
                title="Reconstruction error (DDIM's Table 2)",
                header=["S", "n", "latents", "pixels", "std of the noise", "paper, CIFAR-10"],
                rows=rows,
            )
        ],
        charts=[
            Chart(
                name="reconstruction",
                title="Error of the way to the noise and back",
                x_label="steps S each way",
                y_label="squared error a dimension",
                log_x=True,
                log_y=True,
                lines=[Line(name=n, x=steps, y=y, reference=r) for n, y, r in curves],
            )
        ],
        sheets={"there-and-back": _sheet(found)},
        numbers={"round_trips": numbers, "data": name},
    )


def _mean(values: NDArray[np.float64]) -> Estimate:
    return clustered_mean(values, [str(n) for n in range(len(values))])


def _sheet(found: Sequence[RoundTrips]) -> Image.Image:
    half = min(len(trip.shown) for trip in found) // 2
    rows = [("autoencoder", found[0].shown[:half])]
    for trip in found:
        own = len(trip.shown) // 2
        rows.append((f"S = {trip.steps}", trip.shown[own : own + half]))
    pictures = [picture for _, row in rows for picture in row]
    return axes_sheet(pictures, [""] * half, [name for name, _ in rows])
