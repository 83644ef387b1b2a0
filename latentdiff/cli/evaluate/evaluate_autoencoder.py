"""`latentdiff evaluate autoencoder`: PSNR of unseen scenes, beside the linear floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latentdiff import config
from latentdiff.cli.evaluate import output
from latentdiff.cli.options import ModelOptions
from latentdiff.cli.outputs import Named
from latentdiff.errors import UserError

PROG = "latentdiff evaluate autoencoder"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    count: int = 512
    """Unseen scenes of base subjects; half as many of held-out subjects come on top."""
    json: Path | None = None
    """Write all numbers here."""
    output: Named = None
    """Write a sheet here: scenes over their reconstructions, the last four held-out subjects."""
    networks: ModelOptions = field(default_factory=lambda: ModelOptions(dtype="float32"))

    def __post_init__(self) -> None:
        if self.count < 2:
            raise UserError(f"count is {self.count}, expected at least 2")


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Measure how well scenes are reconstructed."
    )
    from latentdiff.measure.measure_autoencoder import measure_autoencoder

    report = measure_autoencoder(output.open_model(options.networks), options.count)
    print(report.table())
    output.write_json(options.json, report.to_json(), options)
    output.write_sheet(options.output, report.sheet, "sheet")
    return 0
