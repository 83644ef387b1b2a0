"""`latentdiff evaluate captions`: does the network listen to its captions, and when?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latentdiff import config
from latentdiff.cli.evaluate import output
from latentdiff.cli.options import ModelOptions
from latentdiff.errors import UserError
from latentdiff.progress import Progress

PROG = "latentdiff evaluate captions"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which model, on what."""

    data: str = "scenes"
    """Pictures with captions (folder, parquet file, tar …), or scenes: unseen ones of the world."""
    count: int = 64
    """Pictures."""
    timesteps: tuple[int, ...] = (999, 900, 800, 600, 400, 200)
    """Where the network is asked, 0 … T - 1; the larger, the noisier."""
    json: Path | None = None
    """Write all numbers here."""
    networks: ModelOptions = field(default_factory=lambda: ModelOptions(dtype="float32"))

    def __post_init__(self) -> None:
        if self.count < 2:
            raise UserError(f"count is {self.count}, expected at least 2")


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="How much the true caption helps, by timestep."
    )
    from latentdiff.measure.measure_captions import measure_captions

    model = output.open_model(options.networks)
    pictures, items = output.captioned(options.data, options.count, model)
    report = measure_captions(
        model, pictures, items, options.timesteps, Progress("answered", patience=3.0)
    )
    print(report.table())
    output.write_json(options.json, report.to_json(), options)
    return 0
