"""`latentdiff evaluate autoencoder`: PSNR of unseen scenes, beside the linear floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from latentdiff import __version__, config, files
from latentdiff.cli import evaluation_parts as parts
from latentdiff.errors import UserError

PROG = "latentdiff evaluate autoencoder"
# Scenes that the PCA floor is fitted to; its 48 numbers a patch are settled long before.
FLOOR_SCENES = 128


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `latentdiff evaluate autoencoder`."""

    model: str = "snowglobe"
    """The model: its name, a diffusers folder, or a hub id."""
    count: int = 512
    """Unseen scenes of base subjects; half as many of held-out subjects come on top."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Number type of the autoencoder."""
    device: str = "auto"
    """Where to compute; auto takes the accelerator when there is one."""
    json: Path | None = None
    """Write all numbers here."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write a sheet here: scenes over their reconstructions, the last four held-out subjects."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.count < 2:
            raise UserError(f"count is {self.count}, expected at least 2")


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Measure how well scenes are reconstructed."
    )
    from latentdiff.evaluation import distances, protocol, reconstruction
    from latentdiff.models.autoencoder import Autoencoder
    from latentdiff.scenes.catalog import held_out_subjects
    from latentdiff.scenes.world import World

    loaded = parts.load(options.model, options.dtype, options.device)
    autoencoder = Autoencoder(loaded.bundle.vae)
    factor, channels = autoencoder.factor, autoencoder.latent_channels
    floor_world = World(protocol.FLOOR_WORLD_SEED)
    pca = distances.fit_patch_pca(
        np.stack([floor_world.scene(k).image for k in range(FLOOR_SCENES)]), factor, channels
    )
    seed = protocol.EVALUATION_WORLD_SEED
    worlds = {
        "base subjects": (World(seed), options.count),
        "held-out subjects": (World(seed, subjects=held_out_subjects()), options.count // 2),
    }
    groups: dict[str, reconstruction.Reconstruction] = {}
    shown: list[tuple[Any, Any]] = []
    for name, (world, count) in worlds.items():
        scenes = [world.scene(k) for k in range(count)]
        pictures = np.stack([scene.image for scene in scenes])
        restored = np.stack(parts.reconstruct(loaded, pictures))
        groups[name] = reconstruction.measure(
            pictures, restored, [scene.record for scene in scenes], pca.reconstruct(pictures)
        )
        shown += list(zip(pictures, restored, strict=True))[: 12 if not shown else 4]
    print(f"f = {factor}, {channels} channels; PSNR in dB, means over pictures and over boxes\n")
    print(reconstruction.print_table(groups))
    if options.json is not None:
        report = {
            "measurement": "autoencoder",
            "version": __version__,
            "options": config.to_dict(options),
            "hashes": loaded.hashes,
            "factor": factor,
            "latent_channels": channels,
            "groups": {name: group.to_json() for name, group in groups.items()},
        }
        files.write_json(options.json, report)
        print(f"\nnumbers: {options.json}")
    if options.output is not None:
        write_sheet(options.output, shown)
        print(f"sheet: {options.output}")
    return 0


def write_sheet(path: Path, shown: Sequence[tuple[Any, Any]]) -> None:
    """Pictures over their reconstructions, eight columns."""
    from latentdiff.evaluation.result_table import Cell, contact_sheet

    cells = []
    for first in range(0, len(shown), 8):
        row = shown[first : first + 8]
        cells += [Cell(picture=picture, label="scene") for picture, _ in row]
        cells += [Cell(picture=restored, label="reconstructed") for _, restored in row]
    with files.atomic_path(path) as temporary:
        contact_sheet(cells, columns=8).save(temporary)
