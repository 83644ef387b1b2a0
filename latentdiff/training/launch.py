"""Launching: the accelerate configs that ship. No torch."""

from __future__ import annotations

from pathlib import Path

from latentdiff.errors import unknown_name

CONFIGS = {
    "gpu1": "one GPU",
    "gpu8": "the GPUs of one machine, each with the whole model (DDP)",
    "nodes2": "two machines of 8 GPUs (DDP)",
    "fsdp2": "the GPUs of one machine, the model dealt out over them (FSDP2)",
    "cpu2": "two processes on a CPU (gloo)",
}


def config_path(name: str) -> Path:
    """The accelerate config of that name, to be given as `accelerate launch --config_file`."""
    if name not in CONFIGS:
        raise unknown_name("accelerate config", name, CONFIGS)
    return Path(__file__).parents[1] / "assets" / "accelerate" / f"{name}.yaml"
