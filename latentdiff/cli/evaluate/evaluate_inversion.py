"""`latentdiff evaluate inversion`: pictures to their noise and back, two ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latentdiff import config
from latentdiff.cli.evaluate import output
from latentdiff.cli.options import ModelOptions
from latentdiff.errors import UserError
from latentdiff.progress import Progress

PROG = "latentdiff evaluate inversion"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    image: Path | None = None
    """A picture to invert; by default, unseen scenes."""
    prompt: str = ""
    """What --image shows."""
    count: int = 4
    """Unseen scenes, where no picture is given."""
    steps: str = "10,25,50"
    """Numbers of steps, with commas between."""
    guidance_scales: str = "1,3"
    """Guidance on both ways, with commas between."""
    json: Path | None = None
    """Write all numbers here."""
    networks: ModelOptions = field(default_factory=lambda: ModelOptions(dtype="float32"))

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"count is {self.count}, expected at least 1")
        if self.prompt and self.image is None:
            raise UserError("--prompt says what --image shows; give both")
        if min(self.numbers(self.steps, "steps")) < 1:
            raise UserError(f"steps is {self.steps!r}; expected 1 or more each")
        self.numbers(self.guidance_scales, "guidance_scales")

    def numbers(self, text: str, name: str) -> list[float]:
        """The numbers of a list; UserError for what is none."""
        try:
            return [float(part) for part in text.split(",")]
        except ValueError:
            raise UserError(f"{name} is {text!r}; expected numbers with commas between") from None


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Measure how well inversions come back."
    )
    from latentdiff.measure.measure_inversion import measure_inversion, scenes
    from latentdiff.pipelines.from_pictures.sources import read_image

    given = None if options.image is None else read_image(options.image).image
    model = output.open_model(options.networks)
    report = measure_inversion(
        model,
        scenes(model, options.count) if given is None else [(given, options.prompt)],
        [int(number) for number in options.numbers(options.steps, "steps")],
        options.numbers(options.guidance_scales, "guidance_scales"),
        Progress("measured", patience=3.0),
    )
    print(f"{report.pictures} pictures\n\n{report.table()}")
    output.write_json(options.json, report.to_json(), options)
    return 0
