"""Train CLIP: `accelerate launch -m latentdiff.train_scripts.clip --preset cpu …`.

Options come from `--preset`, then `--config FILE.yaml`, then the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latentdiff.training.run.entry import guarded, train_from

PROG = "python -m latentdiff.train_scripts.clip"
DESCRIPTION = (
    "Train the CLIP towers and the tokenizer: on scenes, or on captioned pictures of your own. "
    "Try: --data DIR --run-dir runs/my-clip."
)


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Train in this process; returns the exit code, raises UserError for a mistake."""
    from latentdiff.training.tasks import clip_task as clip

    return train_from(
        clip.ClipTask,
        clip.ClipConfig,
        argv,
        name=clip.ClipTask.name,
        prog=prog,
        description=DESCRIPTION,
        default=clip.PRESETS["cpu"],
        presets=clip.PRESETS,
    )


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:], PROG))
