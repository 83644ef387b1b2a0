"""Train the judge: `python -m latentdiff.train_scripts.judge --pool DIR --render 40000`.

The pool is rendered when it is not there yet; it must hold all subjects and all pairs, so it is
not the pool that the generator learns from. The judge ends up in the run folder's `export/`, and
in `--output` if that is given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latentdiff.training.run.entry import guarded, train_from

PROG = "python -m latentdiff.train_scripts.judge"


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Train in this process; returns the exit code, raises UserError for a mistake."""
    from latentdiff.training.tasks import judge_task as judge

    return train_from(
        judge.JudgeTask,
        judge.JudgeConfig,
        argv,
        name=judge.JudgeTask.name,
        prog=prog,
        description="Train the judge, which names subjects and settings in pictures.",
        default=judge.PRESETS["cpu"],
        presets=judge.PRESETS,
    )


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:], PROG))
