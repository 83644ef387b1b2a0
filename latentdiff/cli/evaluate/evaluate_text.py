"""`latentdiff evaluate text`: does the text tower tell subjects apart?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latentdiff import config
from latentdiff.cli.evaluate import output
from latentdiff.cli.options import ModelOptions

PROG = "latentdiff evaluate text"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which model."""

    json: Path | None = None
    """Write all numbers here."""
    networks: ModelOptions = field(default_factory=ModelOptions)


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Along how many directions do prompts differ?"
    )
    from latentdiff.measure.measure_text import measure_text

    report = measure_text(output.open_model(options.networks))
    print(report.table())
    output.write_json(options.json, report.to_json(), options)
    return 0
