"""`latentdiff bench weights FOLDER`: a stand-in of Stable Diffusion 1.5's shape, to be timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from latentdiff import config
from latentdiff.errors import UserError

PROG = "latentdiff bench weights"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where it goes."""

    folder: tyro.conf.Positional[Path]
    """A folder that is not there yet."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of the weights: 4.3 GB in float32, half of it otherwise."""


def main(argv: Sequence[str]) -> int:
    """Write the folder; returns the exit code."""
    options = config.parse(
        Options,
        argv,
        prog=PROG,
        description="Write random weights of Stable Diffusion 1.5's shape.",
    )
    if options.folder.exists():
        raise UserError(f"{options.folder} is there already; name a new folder")
    import torch

    from latentdiff.bench.drawing.stand_in import write_stand_in

    print(write_stand_in(options.folder, getattr(torch, options.dtype)))
    return 0
