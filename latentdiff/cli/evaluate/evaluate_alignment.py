"""`latentdiff evaluate alignment`: do the pictures show what their prompts ask for?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latentdiff import config
from latentdiff.cli.evaluate import output
from latentdiff.cli.options import ModelOptions, SamplingOptions
from latentdiff.cli.outputs import Named
from latentdiff.errors import UserError

PROG = "latentdiff evaluate alignment"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    subjects: tuple[str, ...] = ()
    """Only pictures of these subjects, held-out ones too, `count` in all; default: the protocol."""
    count: int = 512
    """(subject, setting) pairs; two-subject prompts (count // 8) and paraphrases come on top."""
    judge: Path | None = None
    """Folder of the judge; MODEL/judge if not given."""
    clip: bool = True
    """Also measure CLIP scores (needs MODEL/clip_vision)."""
    extras: bool = True
    """Also measure two-subject prompts and paraphrases."""
    json: Path | None = None
    """Write all numbers here, those of every picture included."""
    output: Named = None
    """Write a contact sheet here: green frames are right, red ones wrong."""
    sheet_count: int = 128
    """Pictures on the contact sheet, spread evenly over the groups."""
    sampling: SamplingOptions = field(
        default_factory=lambda: SamplingOptions(
            scheduler="ddim", prompt_syntax="plain", batch_size=16
        )
    )
    networks: ModelOptions = field(default_factory=ModelOptions)

    def __post_init__(self) -> None:
        for name in ("count", "sheet_count"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Judge whether pictures show what was asked for."
    )
    from latentdiff.evaluation import protocol
    from latentdiff.measure.measure_alignment import measure_alignment

    if options.subjects:
        items = protocol.items_of(options.subjects, options.count)
    model = output.open_model(options.networks)
    if not options.subjects:
        drawn = model.subjects
        items = protocol.items(options.count, extras=options.extras, subjects=drawn)
    judge = model.load_judge(options.judge)
    scorer = model.load_clip() if options.clip else None
    drawing = output.drawing(options.sampling)
    report = measure_alignment(model, items, judge, scorer=scorer, drawing=drawing)
    print(report.table())
    output.write_json(options.json, report.to_json(), options)
    output.write_sheet(options.output, lambda: report.sheet(options.sheet_count), "contact sheet")
    return 0
