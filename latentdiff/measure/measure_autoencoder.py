"""How well does the autoencoder give unseen scenes back? PSNR beside the linear floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from latentdiff import __version__
from latentdiff.errors import UserError
from latentdiff.evaluation import distances, protocol, reconstruction
from latentdiff.evaluation.reconstruction import Reconstruction
from latentdiff.measure.drawing import Picture, reconstruct, scene_size
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.scenes.catalog import held_out_subjects
from latentdiff.scenes.world import World
from latentdiff.sheet import Cell, labelled_sheet

FLOOR_SCENES = 128
"""Scenes that the PCA floor is fitted to; its 48 numbers a patch are settled long before."""
COLUMNS = 8


@dataclass(frozen=True, kw_only=True)
class AutoencoderReport:
    """groups: base and held-out subjects. shown: pairs (scene, reconstruction) for the sheet."""

    model: MeasuredModel
    groups: Mapping[str, Reconstruction]
    shown: Sequence[tuple[Picture, Picture]]

    def table(self) -> str:
        """A row a group, under a line on the autoencoder."""
        geometry = self.model.pipeline.geometry
        return (
            f"f = {geometry.factor}, {geometry.channels} channels; PSNR in dB, means over pictures "
            f"and over boxes\n\n{reconstruction.print_table(dict(self.groups))}"
        )

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return {
            "measurement": "autoencoder",
            "version": __version__,
            "model": self.model.name,
            "hashes": dict(self.model.hashes),
            "factor": self.model.pipeline.geometry.factor,
            "latent_channels": self.model.pipeline.geometry.channels,
            "groups": {name: group.to_json() for name, group in self.groups.items()},
        }

    def sheet(self) -> Image.Image:
        """Scenes over their reconstructions, the last four of held-out subjects."""
        cells = []
        for first in range(0, len(self.shown), COLUMNS):
            row = self.shown[first : first + COLUMNS]
            cells += [Cell(picture=scene, label="scene") for scene, _ in row]
            cells += [Cell(picture=restored, label="reconstructed") for _, restored in row]
        return labelled_sheet(cells, columns=COLUMNS)


def measure_autoencoder(model: MeasuredModel, count: int = 512) -> AutoencoderReport:
    """Reconstruct `count` unseen scenes of base subjects, and half as many of held-out ones."""
    if count < 2:
        raise UserError(f"count is {count}, expected at least 2")
    geometry = model.pipeline.geometry
    size = scene_size(model.pipeline)
    floor_world = World(protocol.FLOOR_WORLD_SEED, size=size)
    pca = distances.fit_patch_pca(
        np.stack([floor_world.scene(k).image for k in range(FLOOR_SCENES)]),
        geometry.factor,
        geometry.channels,
    )
    seed = protocol.EVALUATION_WORLD_SEED
    worlds = {
        "base subjects": (World(seed, size=size), count),
        "held-out subjects": (World(seed, size=size, subjects=held_out_subjects()), count // 2),
    }
    groups: dict[str, Reconstruction] = {}
    shown: list[tuple[Picture, Picture]] = []
    for name, (world, number) in worlds.items():
        scenes = [world.scene(k) for k in range(number)]
        pictures = np.stack([scene.image for scene in scenes])
        restored = np.stack(reconstruct(model.pipeline, pictures))
        groups[name] = reconstruction.measure(
            pictures, restored, [scene.record for scene in scenes], pca.reconstruct(pictures)
        )
        shown += list(zip(pictures, restored, strict=True))[: 12 if not shown else 4]
    return AutoencoderReport(model=model, groups=groups, shown=shown)
