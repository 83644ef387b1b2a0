"""How well an autoencoder gives scenes back: numbers from pictures and their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from latentdiff.evaluation.distances import Pictures, psnr, psnr_in_boxes
from latentdiff.evaluation.result_table import table
from latentdiff.scenes.records import SceneRecord


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Means of PSNRs in dB (8 bit): of whole pictures, of subjects' boxes, of the PCA floor.

    `worst` is the 5th percentile of the whole pictures.
    """

    count: int
    psnr: float
    psnr_boxes: float
    worst: float
    floor: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(
    pictures: Pictures, restored: Pictures, records: Sequence[SceneRecord], floor: Pictures
) -> Reconstruction:
    """Compare (N, H, W, 3) pictures with their reconstructions and with the PCA floor's."""
    whole = psnr(pictures, restored)
    boxes = [[placement.box for placement in record.placements] for record in records]
    return Reconstruction(
        count=len(pictures),
        psnr=float(whole.mean()),
        psnr_boxes=float(psnr_in_boxes(pictures, restored, boxes)[0].mean()),
        worst=float(np.percentile(whole, 5)),
        floor=float(psnr(pictures, floor).mean()),
    )


def print_table(groups: dict[str, Reconstruction]) -> str:
    """A row a group; all numbers but the count in dB."""
    header = ["scenes", "n", "PSNR", "in boxes", "5th percentile", "PCA floor", "above floor"]
    rows = [
        [
            name,
            str(r.count),
            *(f"{value:.2f}" for value in (r.psnr, r.psnr_boxes, r.worst, r.floor)),
            f"{r.psnr - r.floor:+.2f}",
        ]
        for name, r in groups.items()
    ]
    return table(header, rows)
