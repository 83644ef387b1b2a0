"""`latentdiff evaluate blind`: numbered pictures without their prompts, for a person to name.

Look at `sheet.png`, write down what you see, a line a picture ("3: fox, forest"), into a text
file, and only then score it: `latentdiff evaluate blind -o DIR --answers FILE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from latentdiff import config, files
from latentdiff.cli.evaluate import output
from latentdiff.cli.options import ModelOptions, SamplingOptions
from latentdiff.errors import UserError

PROG = "latentdiff evaluate blind"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw, or which answers to score."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("blind")
    """Folder for `sheet.png` and, apart from it, `key.json`."""
    answers: Path | None = None
    """Score these answers ("NUMBER: SUBJECT, SETTING", a line each) against the folder's key."""
    count: int = 24
    """Pictures."""
    salt: int = 0
    """Another number, another selection: nobody can be blind to the same sheet twice."""
    sampling: SamplingOptions = field(
        default_factory=lambda: SamplingOptions(
            scheduler="ddim", prompt_syntax="plain", batch_size=8
        )
    )
    networks: ModelOptions = field(default_factory=ModelOptions)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"count is {self.count}, expected at least 1")


def main(argv: Sequence[str]) -> int:
    """Write the sheet and its key, or score answers; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Numbered pictures for a person to name."
    )
    from latentdiff.measure import blind_test

    folder = options.output
    if options.answers is not None:
        expected = blind_test.read_key(folder)
        text = blind_test.score(expected, blind_test.read_answers(options.answers)).table()
        files.write_text(folder / blind_test.SCORE, text)
        print(text)
        return 0
    from latentdiff.evaluation import protocol

    model = output.open_model(options.networks)
    items = protocol.blind_items(options.count, options.salt, model.subjects)
    sheet = blind_test.draw_sheet(model, items, folder, output.drawing(options.sampling))
    print(f"{sheet}: write down what you see, a line a picture: 3: fox, forest")
    print(
        f"then: {PROG} -o {folder} --answers FILE   (the key is in {blind_test.KEY}: do not look)"
    )
    return 0
