"""Train the judge: `python -m latentdiff.train_scripts.judge --pool DIR --render 40000`.

The pool is rendered when it is not there yet; it must hold all subjects and all pairs, so it is
not the pool that the generator learns from. The judge ends up in the run folder's `export/`, and
in `--output` if that is given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latentdiff import config as configs

PROG = "python -m latentdiff.train_scripts.judge"


def main(argv: Sequence[str]) -> int:
    """Render if asked, train, write the judge; returns the exit code."""
    from latentdiff.training import judge, loop

    config = configs.parse(
        judge.JudgeConfig,
        argv,
        prog=PROG,
        description="Train the judge, which names subjects and settings in pictures.",
        default=judge.PRESETS["cpu"],
        presets=judge.PRESETS,
    )
    if config.render and not config.train.dry_run:
        judge.render_pool(config)
    task = judge.JudgeTask(config)
    result = loop.run(task, config.train)
    print(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
