"""How well do inversions come back? The same pictures through each, errors by number of steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from latentdiff import __version__
from latentdiff.evaluation import protocol
from latentdiff.measure.drawing import Progress, renders, scene_size
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.pipelines import round_trip
from latentdiff.pipelines.request import Given, Request
from latentdiff.pipelines.request_records import Inversion, Source

FEWEST = 4
"""Scenes that the protocol deals out at once."""
WAYS = {"DDIM's inverse": False, "EDICT": True}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way at one number of steps and one guidance, over all pictures.

    latent_error: root of the mean square difference of latents of about unit variance. psnr: mean
    in dB of the pictures that both latents decode to.
    """

    way: str
    guidance_scale: float
    steps: int
    latent_error: float
    psnr: float


@dataclass(frozen=True, kw_only=True)
class InversionReport:
    """pictures: how many went each way."""

    model: MeasuredModel
    pictures: int
    rows: tuple[Row, ...]

    def table(self) -> str:
        """A line a row, as Markdown."""
        lines = ["| walk | guidance | steps | latents, RMS | PSNR |", "|---|---|---|---|---|"]
        lines += [
            f"| {row.way} | {row.guidance_scale:g} | {row.steps} | {row.latent_error:.2g} | "
            f"{row.psnr:.1f} dB |"
            for row in self.rows
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values; the PSNR of equal pictures, which is infinite, is None."""
        rows = [
            {**vars(row), "psnr": row.psnr if math.isfinite(row.psnr) else None}
            for row in self.rows
        ]
        return {
            "measurement": "inversion",
            "version": __version__,
            "model": self.model.name,
            "hashes": dict(self.model.hashes),
            "pictures": self.pictures,
            "rows": rows,
        }


def scenes(model: MeasuredModel, count: int) -> list[tuple[Image.Image, str]]:
    """Unseen scenes of the model's own size, with their captions."""
    items = protocol.items(max(FEWEST, count), extras=False, subjects=model.subjects)[:count]
    pictures = renders(items, scene_size(model.pipeline))
    return [(Image.fromarray(p), i.prompt) for p, i in zip(pictures, items, strict=True)]


def measure_inversion(
    model: MeasuredModel,
    pairs: Sequence[tuple[Image.Image, str]],
    steps: Sequence[int],
    guidance_scales: Sequence[float],
    progress: Progress | None = None,
) -> InversionReport:
    """Every (picture, caption) to its noise and back: each way, guidance and number of steps."""
    rows: list[Row] = []
    kinds = list(itertools.product(WAYS.items(), guidance_scales, steps))
    for (way, exact), scale, count in kinds:
        by = Inversion(exact=exact, guidance_scale=scale)
        found = []
        for image, caption in pairs:
            request = Request(
                prompt=caption,
                num_inference_steps=count,
                prompt_syntax="plain",
                source=Source(inversion=replace(by, prompt=caption)),
                given=Given(image=image),
            )
            found.append(round_trip.measure(model.pipeline, request))
        squares = sum(one.latent_error**2 for one in found) / len(found)
        rows.append(
            Row(
                way=way,
                guidance_scale=scale,
                steps=count,
                latent_error=math.sqrt(squares),
                psnr=sum(one.psnr for one in found) / len(found),
            )
        )
        if progress is not None:
            progress(len(rows), len(kinds))
    return InversionReport(model=model, pictures=len(pairs), rows=tuple(rows))
