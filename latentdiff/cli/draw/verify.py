"""`latentdiff verify cat.png`: is a picture drawn again bit by bit, and if not, what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from latentdiff import config as configs
from latentdiff.cli.draw.stored import StoredOptions
from latentdiff.errors import UserError


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Which picture."""

    picture: tyro.conf.Positional[Path | None] = None
    """PNG, JPEG or WebP drawn here."""
    stored: StoredOptions = field(default_factory=StoredOptions)


def main(argv: Sequence[str]) -> int:
    """Run `latentdiff verify`: 0 when the picture is bit-equal, 1 when it differs."""
    config = configs.parse(
        VerifyConfig, argv, prog="latentdiff verify", description="Draw a picture again, compare."
    )
    if config.picture is None:
        raise UserError("no picture was given; try: latentdiff verify cat.png")
    from latentdiff.cli.draw import stored

    contents = stored.read(config.picture)
    if not contents.recipes:
        program = contents.foreign.program if contents.foreign else None
        raise UserError(
            f"{config.picture} holds no latentdiff recipe to verify"
            + (f"; {program} drew it, and replay --model draws its like" if program else "")
        )
    pipeline = stored.open_pipeline(contents.recipes[0], config.stored)
    from latentdiff.pipelines import replay

    verdict = replay.verify(pipeline, contents.image, contents.recipes)
    print(f"{config.picture}: {verdict.lines[0]}")
    for line in verdict.lines[1:]:
        print(f"  {line}")
    return 0 if verdict.equal else 1
