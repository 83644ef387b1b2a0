"""Train the autoencoder: `accelerate launch -m latentdiff.train_scripts.vae --preset cpu …`.

Options come from `--preset`, then `--config FILE.yaml`, then the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latentdiff.training.run.entry import guarded, train_from

PROG = "python -m latentdiff.train_scripts.vae"
DESCRIPTION = (
    "Train the autoencoder: on scenes, or on pictures of your own, which need no captions. "
    "Try: --data DIR --run-dir runs/my-vae."
)


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Train in this process; returns the exit code, raises UserError for a mistake."""
    from latentdiff.training.tasks import vae_task as vae

    return train_from(
        vae.VaeTask,
        vae.VaeConfig,
        argv,
        name=vae.VaeTask.name,
        prog=prog,
        description=DESCRIPTION,
        default=vae.PRESETS["cpu"],
        presets=vae.PRESETS,
    )


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:], PROG))
