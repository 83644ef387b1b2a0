"""Measure training rates: `python -m latentdiff.train_scripts.probe --task text_to_image`.

Each batch size is tried with each compile mode on random data; a line a try. With one size and one
mode it also fills torch's compile cache (TORCHINDUCTOR_CACHE_DIR) for a run that follows.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from latentdiff import config as configs
from latentdiff.errors import UserError

PROG = "python -m latentdiff.train_scripts.probe"


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What to measure."""

    task: Literal["text_to_image", "vae", "clip"] = "text_to_image"
    """Whose update to measure."""
    networks: str = "h100"
    """Preset of the task that the options start from."""
    options: str = ""
    """More options of the task, as on its command line."""
    batch_sizes: tuple[int, ...] = ()
    """Samples per update; empty: the preset's own."""
    modes: tuple[str, ...] = ()
    """torch.compile modes, "none" for not compiled; empty: the preset's own."""
    updates: int = 20
    """Updates that are timed."""


def main(argv: Sequence[str]) -> int:
    """Print a line for each try; a try that fails says why and the others go on."""
    config = configs.parse(ProbeConfig, argv, prog=PROG, description=__doc__ or "")
    import torch

    from latentdiff.training.recipes import probe
    from latentdiff.training.tasks import clip_task as clip
    from latentdiff.training.tasks import text_to_image
    from latentdiff.training.tasks import vae_task as vae

    found: dict[str, Any] = {
        "vae": (vae.VaeConfig, vae.PRESETS),
        "clip": (clip.ClipConfig, clip.PRESETS),
        "text_to_image": (text_to_image.TextToImageConfig, text_to_image.PRESETS),
    }
    cls, presets = found[config.task]
    options = ["--preset", config.networks, *shlex.split(config.options)]
    task = configs.parse(cls, options, prog=PROG, presets=presets)
    worked = 0
    for mode in config.modes or (task.train.compile or "none",):
        for size in config.batch_sizes or (task.train.batch_size,):
            train = dataclasses.replace(
                task.train, batch_size=size, compile="" if mode == "none" else mode
            )
            torch.compiler.reset()
            label = f"{config.task} batch {size} compile {mode}"
            try:
                rate = probe.measure(
                    config.task,
                    task,
                    task.model,
                    train,
                    steps=config.updates,
                    crop=getattr(task, "crop", 128),
                )
            except torch.cuda.OutOfMemoryError:
                print(f"{label}: out of memory", flush=True)
                continue
            except RuntimeError as error:
                print(f"{label}: {str(error).splitlines()[0][:200]}", flush=True)
                continue
            worked += 1
            print(
                f"{label}: {rate.samples_per_second:,.0f} samples/s, "
                f"{rate.samples_per_second / size:.1f} updates/s, first updates after "
                f"{rate.first_seconds:.1f} s, {rate.gibibytes:.1f} GiB",
                flush=True,
            )
    return 0 if worked else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as mistake:
        print(f"{PROG}: error: {mistake}", file=sys.stderr)
        sys.exit(2)
