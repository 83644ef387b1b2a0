"""Train the text tower: `python -m latentdiff.train_scripts.text --pool DIR --cache DIR …`.

Its states learn to hold the picture that a caption lets one expect, so that a U-Net can tell
subjects apart; `latentdiff evaluate text` measures it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latentdiff.training.run.entry import guarded, train_from

PROG = "python -m latentdiff.train_scripts.text"


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Train in this process; returns the exit code, raises UserError for a mistake."""
    from latentdiff.training.tasks import text_task as text

    return train_from(
        text.TextTask,
        text.TextConfig,
        argv,
        name=text.TextTask.name,
        prog=prog,
        description="Train the text tower to expect the latents that a caption describes.",
        default=text.PRESETS["cpu"],
        presets=text.PRESETS,
    )


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:], PROG))
