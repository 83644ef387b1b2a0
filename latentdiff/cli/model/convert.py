"""`latentdiff convert IN OUT`: a model as a folder of diffusers, or as one file, either way."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from latentdiff import config as configs
from latentdiff.diffusion.prediction_types import Prediction
from latentdiff.errors import UserError

Dtype = Literal["float32", "float16", "bfloat16", "float8_e4m3fn"]


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What to convert, and into what."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """A .safetensors checkpoint in the original layout, a folder in diffusers format, or a hub
    id."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """NAME.safetensors for one file; any other name for a new folder in diffusers format."""
    dtype: Dtype | None = None
    """Of the written weights; by default each as it is stored."""
    variant: str | None = None
    """Which of several sets of weights: fp16 …; ema for the averaged ones of a single file."""
    prediction_type: Prediction | None = None
    """What the U-Net predicts, where the source says it wrongly or not at all."""
    vae: str | None = None
    """File or folder whose autoencoder stands in for the model's own."""


def main(argv: Sequence[str]) -> int:
    """Run `latentdiff convert` and return its exit code."""
    config = configs.parse(
        ConvertConfig,
        argv,
        prog="latentdiff convert",
        description="Convert a model between diffusers' folder and a single file; exactly.",
    )
    if config.target.exists():
        raise UserError(f"{config.target} exists; the converted model needs a name of its own")
    single = config.target.suffix == ".safetensors"
    if not single and config.target.suffix in (".ckpt", ".pt", ".bin", ".pth"):
        raise UserError(f"{config.target} would be a pickle; name it .safetensors")
    import torch

    from latentdiff.models import bundle as bundles
    from latentdiff.models.single_file_writer import write_single_file

    bundle = bundles.load(
        config.source,
        dtype=None,
        variant=config.variant,
        vae=config.vae,
        prediction_type=config.prediction_type,
    )
    for note in bundle.notes:
        print(f"note: {note}", file=sys.stderr)
    dtype = getattr(torch, config.dtype) if config.dtype else None
    if single:
        place = write_single_file(bundle, config.target, dtype=dtype)
    else:
        place = bundles.save(bundle, config.target, dtype=dtype)
    print(place.resolve())
    return 0
