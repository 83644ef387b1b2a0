"""Train the U-Net: `accelerate launch -m latentdiff.train_scripts.text_to_image --vae … --clip …`.

Options come from `--preset`, then `--config FILE.yaml`, then the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latentdiff.training.entry import main_for, train_from

PROG = "python -m latentdiff.train_scripts.text_to_image"
DESCRIPTION = "Train the U-Net on latents and captions."


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Train in this process; returns the exit code, raises UserError for a mistake."""
    from latentdiff.training import text_to_image

    return train_from(
        text_to_image.TextToImageTask,
        text_to_image.TextToImageConfig,
        argv,
        prog=prog,
        description=DESCRIPTION,
        default=text_to_image.PRESETS["cpu"],
        presets=text_to_image.PRESETS,
    )


if __name__ == "__main__":
    from latentdiff.training import text_to_image

    sys.exit(
        main_for(
            text_to_image.TextToImageTask,
            text_to_image.TextToImageConfig,
            prog=PROG,
            description=DESCRIPTION,
            default=text_to_image.PRESETS["cpu"],
            presets=text_to_image.PRESETS,
        )
    )
