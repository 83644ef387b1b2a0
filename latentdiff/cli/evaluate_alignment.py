"""`latentdiff evaluate alignment`: do the pictures show what their prompts ask for?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from latentdiff import __version__, config, files
from latentdiff.cli import evaluation_parts as parts
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.evaluation.alignment import Outcome, Score
    from latentdiff.evaluation.clip_score import ClipScorer
    from latentdiff.evaluation.protocol import Item

PROG = "latentdiff evaluate alignment"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `latentdiff evaluate alignment`."""

    model: str = "snowglobe"
    """The model: its name, a diffusers folder, or a hub id."""
    lora: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """LoRA file over the model, FILE or FILE:scale; may be given several times."""
    subjects: tuple[str, ...] = ()
    """Only pictures of these subjects, held-out ones too, `count` in all; default: the protocol."""
    count: int = 512
    """(subject, setting) pairs; two-subject prompts (count // 8) and paraphrases come on top."""
    steps: int | None = None
    """Denoising steps; the model's own default if not given."""
    guidance_scale: float | None = None
    """Guidance; the model's own default if not given."""
    scheduler: str = "ddim"
    """Scheduler, as for `latentdiff generate`."""
    batch_size: int = 16
    """Pictures drawn at a time; they do not depend on it, up to rounding."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the networks; auto is bfloat16 where the processor computes in it."""
    device: str = "auto"
    """Where to draw; auto takes the accelerator when there is one."""
    judge: Path | None = None
    """Folder of the judge; MODEL/judge if not given."""
    clip: bool = True
    """Also measure CLIP scores (needs MODEL/clip_vision)."""
    extras: bool = True
    """Also measure two-subject prompts and paraphrases."""
    json: Path | None = None
    """Write all numbers here, those of every picture included."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write a contact sheet here: green frames are right, red ones wrong."""
    sheet_count: int = 128
    """Pictures on the contact sheet, spread evenly over the groups."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("count", "batch_size", "sheet_count"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps is {self.steps}, expected at least 1")


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Judge whether pictures show what was asked for."
    )
    from latentdiff.evaluation import alignment, protocol

    if options.subjects:
        chosen = protocol.items_of(options.subjects, options.count)
    else:
        chosen = protocol.items(options.count, extras=options.extras)
    loaded = parts.load(options.model, options.dtype, options.device, options.lora)
    judge = parts.load_judge(options.judge, loaded.folder)
    scorer = parts.load_clip(loaded) if options.clip else None
    clock = Clock()
    columns: dict[str, list[NDArray[np.uint8]]] = {}
    columns[alignment.GENERATED] = list(
        parts.draw(
            loaded.pipeline,
            chosen,
            steps=options.steps,
            guidance_scale=options.guidance_scale,
            scheduler=options.scheduler,
            batch_size=options.batch_size,
        )
    )
    clock.lap("drawing")
    columns[alignment.RENDERS] = parts.renders(chosen)
    clock.lap("rendering")
    columns[alignment.CEILING] = parts.reconstruct(loaded, columns[alignment.RENDERS])
    clock.lap("reconstructing")
    results, scores, clip_scores = judged(columns, chosen, judge, scorer)
    clock.lap("judging")
    print(alignment.print_table(scores))
    print(f"\n{len(chosen)} pictures, {describe(options, loaded)}; {clock}")
    if options.json is not None:
        report = to_json(options, loaded, chosen, results, scores, clip_scores, clock)
        files.write_json(options.json, report)
        print(f"numbers: {options.json}")
    if options.output is not None:
        sheet = contact_sheet(
            chosen, columns[alignment.GENERATED], results[alignment.GENERATED], options.sheet_count
        )
        with files.atomic_path(options.output) as temporary:
            sheet.save(temporary)
        print(f"contact sheet: {options.output}")
    return 0


class Clock:
    """Seconds of each stage, in order."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Close the stage `name`."""
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.laps.items())


def judged(
    columns: dict[str, list[NDArray[np.uint8]]],
    chosen: Sequence[Item],
    judge: Any,
    scorer: ClipScorer | None,
) -> tuple[dict[str, list[Outcome]], dict[str, dict[str, Score]], dict[str, NDArray[np.float32]]]:
    """Column -> outcomes; column -> group -> score; column -> CLIP score of every picture."""
    from latentdiff.evaluation import alignment
    from latentdiff.evaluation.judge_network import judge_pictures
    from latentdiff.evaluation.protocol import prompts

    results, scores, clip_scores = {}, {}, {}
    for name, pictures in columns.items():
        results[name] = alignment.outcomes(chosen, judge_pictures(judge, pictures))
        if scorer is not None:
            clip_scores[name] = scorer.scores(pictures, prompts(chosen))
        scores[name] = alignment.summarise(chosen, results[name], clip_scores.get(name))
    return results, scores, clip_scores


def resolved(options: Options, loaded: parts.Loaded) -> tuple[int, float]:
    """Steps and guidance as they were drawn with, the model's own where none were given."""
    steps = loaded.pipeline.default_steps if options.steps is None else options.steps
    own = loaded.pipeline.default_guidance_scale
    return steps, own if options.guidance_scale is None else options.guidance_scale


def describe(options: Options, loaded: parts.Loaded) -> str:
    """How the pictures were drawn, for the line under the table."""
    steps, guidance = resolved(options, loaded)
    loras = "".join(f" + {name}" for name in options.lora)
    return (
        f"{options.model}{loras}, {options.scheduler}, {steps} steps, guidance {guidance:g}, "
        f"{loaded.dtype_name}"
    )


def to_json(
    options: Options,
    loaded: parts.Loaded,
    chosen: Sequence[Item],
    results: dict[str, list[Outcome]],
    scores: dict[str, dict[str, Score]],
    clip_scores: dict[str, NDArray[np.float32]],
    clock: Clock,
) -> dict[str, Any]:
    """The whole report as plain values."""
    from latentdiff.evaluation import alignment, protocol

    pictures = [
        {
            "prompt": item.prompt,
            "group": item.group,
            "seed": item.seed,
            "subjects": list(item.subjects),
            "setting": item.setting,
            **{
                name: {
                    "subject": column[n].subject,
                    "setting": column[n].setting,
                    "said_subjects": list(column[n].said[0]),
                    "said_setting": column[n].said[1],
                    **({"clip": round(float(clip_scores[name][n]), 3)} if clip_scores else {}),
                }
                for name, column in results.items()
            },
        }
        for n, item in enumerate(chosen)
    ]
    return {
        "measurement": "alignment",
        "version": __version__,
        "options": config.to_dict(options),
        "num_inference_steps": resolved(options, loaded)[0],
        "guidance_scale": resolved(options, loaded)[1],
        "dtype": loaded.dtype_name,
        "hashes": loaded.hashes,
        "evaluation_world_seed": protocol.EVALUATION_WORLD_SEED,
        "seconds": clock.laps,
        "scores": {
            name: {group: score.to_json() for group, score in column.items()}
            for name, column in scores.items()
        },
        "of_ceiling": alignment.ratios(scores[alignment.GENERATED], scores[alignment.CEILING]),
        "pictures": pictures,
    }


def contact_sheet(
    chosen: Sequence[Item],
    pictures: Sequence[NDArray[np.uint8]],
    results: Sequence[Outcome],
    count: int,
) -> Image.Image:
    """Up to `count` pictures, evenly over the items: prompt, and the verdict where it is wrong."""
    from latentdiff.evaluation.result_table import Cell
    from latentdiff.evaluation.result_table import contact_sheet as sheet

    picked = np.unique(np.linspace(0, len(chosen) - 1, min(count, len(chosen))).astype(int))
    cells = []
    for n in picked:
        said, where = results[n].said
        label = chosen[n].prompt
        if not results[n].both:
            label += f" (seen: {' + '.join(said)}, {where})"
        cells.append(Cell(picture=pictures[n], label=label, right=results[n].both))
    return sheet(cells, columns=16 if len(cells) > 64 else 8)
