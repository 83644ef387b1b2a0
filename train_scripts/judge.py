"""Train the judge: `python -m latentdiff.train_scripts.judge --pool DIR --render 40000`.

The pool is rendered when it is not there yet; it must hold all subjects and all pairs, so it is
not the pool that the generator learns from. The judge ends up in the run folder's `export/`, and
in `--output` if that is given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentdiff.training.run.entry import guarded, train_from

if TYPE_CHECKING:
    from latentdiff.training.tasks.judge_task import JudgeConfig, JudgeTask

PROG = "python -m latentdiff.train_scripts.judge"


def build(config: JudgeConfig) -> JudgeTask:
    """The task, its pool rendered or finished first where that is asked for."""
    from latentdiff.training.tasks.judge_task import JudgeTask, render_pool

    if config.render and not config.train.dry_run:
        render_pool(config)
    return JudgeTask(config)


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Train in this process; returns the exit code, raises UserError for a mistake."""
    from latentdiff.training.tasks import judge_task as judge

    return train_from(
        build,
        judge.JudgeConfig,
        argv,
        prog=prog,
        description="Train the judge, which names subjects and settings in pictures.",
        default=judge.PRESETS["cpu"],
        presets=judge.PRESETS,
    )


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:], PROG))
