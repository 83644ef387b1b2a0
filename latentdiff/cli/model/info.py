"""`latentdiff info MODEL`: parts, sizes, hashes, what it knows; of a picture, its recipe."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from latentdiff import config as configs
from latentdiff.pipelines.recipes.formats import SUFFIXES


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Which model."""

    model: tyro.conf.Positional[str] = "snowglobe"
    """snowglobe, a folder in diffusers format, a single .safetensors file, or a hub id; or a
    picture with a recipe."""
    accelerate_config: str | None = None
    """Print instead the path of a config for `accelerate launch --config_file`: gpu1, gpu8, nodes2
    (two machines), fsdp2 or cpu2 (two processes without a GPU)."""


def main(argv: Sequence[str]) -> int:
    """Run `latentdiff info` and return its exit code."""
    config = configs.parse(
        InfoConfig, argv, prog="latentdiff info", description="Describe a model, or a picture."
    )
    if config.accelerate_config is not None:
        from latentdiff.training import launch

        print(launch.config_path(config.accelerate_config))
        return 0
    if Path(config.model).suffix.lower() in SUFFIXES and Path(config.model).is_file():
        from latentdiff.cli.draw import stored

        print(f"{config.model}: ", end="")
        for line in stored.describe(stored.read(Path(config.model))):
            print(line)
        return 0
    from latentdiff.models import bundle as bundles

    bundle = bundles.load(config.model, dtype=None)
    place = Path(bundle.source)
    print(f"{config.model}: {place.resolve()}")
    print(f"\n{'part':<13} {'parameters':>11} {'on disk':>10}  stored    SHA-256 of the weights")
    for part in bundles.folders.NETWORKS:
        network = bundle.part(part).light
        count = sum(p.numel() for p in network.parameters())
        size = sum(p.numel() * p.element_size() for p in network.parameters())
        kept = str(next(network.parameters()).dtype).removeprefix("torch.")
        print(f"{part:<13} {count:>11,} {size / 1e6:>7.1f} MB  {kept:<9} {bundle.hashes[part]}")
    for extra in sorted(p for p in place.iterdir() if p.is_dir()) if place.is_dir() else ():
        size = sum(file.stat().st_size for file in extra.rglob("*.safetensors"))
        if extra.name not in bundles.folders.NETWORKS and size:
            print(f"{extra.name:<13} {'':>11} {size / 1e6:>7.1f} MB")
    scheduler, tokenizer = bundle.scheduler_config, bundle.light.tokenizer
    print(
        f"\nscheduler: {scheduler.class_name}, {scheduler.beta_schedule} "
        f"{scheduler.beta_start} … {scheduler.beta_end}, {scheduler.num_train_timesteps} "
        f"timesteps, {scheduler.timestep_spacing}, predicts {scheduler.prediction_type}"
    )
    print(f"tokenizer: {len(tokenizer):,} tokens, prompts up to {tokenizer.model_max_length}")
    for note in bundle.notes:
        print(f"note: {note}")
    card = bundle.card
    if "subjects" in card:
        show("subjects", card["subjects"])
    if "settings" in card:
        show("settings", card["settings"].values())
    if "relations" in card:
        show("relations", card["relations"])
    return 0


def show(title: str, entries: Iterable[str]) -> None:
    """A titled list, wrapped."""
    names = list(entries)
    print(f"\n{len(names)} {title}:")
    print(textwrap.fill(", ".join(names), 96, initial_indent="  ", subsequent_indent="  "))
