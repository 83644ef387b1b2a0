"""`accelerate launch … -m latentdiff.train_scripts.generate`: pictures drawn by several processes.

The options are those of `latentdiff generate`. Process r of n draws pictures r, r + n, … of all;
each equals the one drawn alone, so they need not talk to one another, on one machine or several.
"""

from __future__ import annotations

import os
import sys

from latentdiff.cli.draw.bulk import Share
from latentdiff.cli.draw.generate import main as generate
from latentdiff.errors import UserError


def main() -> int:
    """Draw this process's share, by RANK and WORLD_SIZE of the environment."""
    try:
        rank, count, local = (
            _number(*x) for x in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        share = Share(rank, count)
        if count > 1:
            import torch

            if torch.cuda.is_available():
                torch.cuda.set_device(local % torch.cuda.device_count())
        return generate(sys.argv[1:], share)
    except UserError as error:
        print(f"generate: error: {error}", file=sys.stderr)
        return 2


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        raise UserError(f"{name} is {os.environ[name]!r}; a whole number was expected") from None


if __name__ == "__main__":
    sys.exit(main())
