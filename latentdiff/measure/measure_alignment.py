"""Do the pictures show what their prompts ask for? Judged beside renders and the ceiling."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentdiff import __version__
from latentdiff.evaluation import alignment, protocol
from latentdiff.evaluation.alignment import CEILING, GENERATED, RENDERS, Outcome, Score
from latentdiff.evaluation.clip_score import ClipScorer
from latentdiff.evaluation.judge_network import Judge, judge_pictures
from latentdiff.evaluation.protocol import Item
from latentdiff.measure.drawing import Drawing, Picture, reconstruct, renders, scene_size
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.pipelines.request import Request
from latentdiff.sheet import Cell, labelled_sheet


@dataclass(frozen=True, kw_only=True)
class AlignmentReport:
    """What was measured, by column (generated, renders, ceiling) over the same items.

    outcomes: of every picture. scores: group → score. clip_scores: of every picture (N,), empty
    when they were not measured. seconds: of each stage. request: how it was drawn, resolved.
    """

    model: MeasuredModel
    request: Request
    items: Sequence[Item]
    drawn: Sequence[Picture]
    outcomes: Mapping[str, Sequence[Outcome]]
    scores: Mapping[str, Mapping[str, Score]]
    clip_scores: Mapping[str, NDArray[np.float32]]
    seconds: Mapping[str, float]

    def table(self) -> str:
        """A row a group and column, and a line on how it was drawn."""
        r = self.request
        laps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return (
            f"{alignment.print_table({name: dict(s) for name, s in self.scores.items()})}\n\n"
            f"{len(self.items)} pictures, {self.model.name}, {r.scheduler}, "
            f"{r.num_inference_steps} steps, guidance {r.guidance_scale:g}, "
            f"{self.model.dtype_name}; {laps}"
        )

    def to_json(self) -> dict[str, Any]:
        """All numbers, those of every picture included, as plain values."""
        generated, ceiling = dict(self.scores[GENERATED]), dict(self.scores[CEILING])
        return {
            "measurement": "alignment",
            "version": __version__,
            "model": self.model.name,
            "request": self.request.to_json(),
            "dtype": self.model.dtype_name,
            "hashes": dict(self.model.hashes),
            "evaluation_world_seed": protocol.EVALUATION_WORLD_SEED,
            "seconds": dict(self.seconds),
            "scores": {
                name: {group: score.to_json() for group, score in column.items()}
                for name, column in self.scores.items()
            },
            "of_ceiling": alignment.ratios(generated, ceiling),
            "pictures": [self._picture(n) for n in range(len(self.items))],
        }

    def _picture(self, n: int) -> dict[str, Any]:
        item = self.items[n]
        columns: dict[str, dict[str, Any]] = {}
        for name, outcomes in self.outcomes.items():
            columns[name] = {
                "subject": outcomes[n].subject,
                "setting": outcomes[n].setting,
                "said_subjects": list(outcomes[n].said[0]),
                "said_setting": outcomes[n].said[1],
            }
            if outcomes[n].relation is not None:
                columns[name]["relation"] = outcomes[n].relation
            if self.clip_scores:
                columns[name]["clip"] = round(float(self.clip_scores[name][n]), 3)
        return {
            "prompt": item.prompt,
            "group": item.group,
            "seed": item.seed,
            "subjects": list(item.subjects),
            "setting": item.setting,
            **columns,
        }

    def sheet(self, count: int = 128) -> Image.Image:
        """Up to `count` drawn pictures, evenly over the items; green is right, red wrong."""
        last = len(self.items) - 1
        picked = np.unique(np.linspace(0, last, min(count, last + 1)).astype(int))
        cells = []
        for n in picked:
            outcome = self.outcomes[GENERATED][n]
            label = self.items[n].prompt
            if not outcome.both:
                label += f" (seen: {' + '.join(outcome.said[0])}, {outcome.said[1]})"
            cells.append(Cell(picture=self.drawn[n], label=label, right=outcome.both))
        return labelled_sheet(cells, columns=16 if len(cells) > 64 else 8)


def measure_alignment(
    model: MeasuredModel,
    items: Sequence[Item],
    judge: Judge,
    *,
    scorer: ClipScorer | None = None,
    drawing: Drawing | None = None,
) -> AlignmentReport:
    """Draw the items, and judge the pictures beside renders and reconstructed renders of them.

    items: `evaluation.protocol.items()` for the fixed protocol. scorer: measures CLIP scores too.
    """
    how = drawing or Drawing()
    clock = _Clock()
    columns = {GENERATED: list(how.items(model.pipeline, items))}
    clock.lap("drawing")
    columns[RENDERS] = renders(items, scene_size(model.pipeline))
    clock.lap("rendering")
    columns[CEILING] = reconstruct(model.pipeline, columns[RENDERS])
    clock.lap("reconstructing")
    outcomes, scores, clip_scores = {}, {}, {}
    for name, pictures in columns.items():
        outcomes[name] = alignment.outcomes(items, judge_pictures(judge, pictures))
        if scorer is not None:
            clip_scores[name] = scorer.scores(pictures, protocol.prompts(items))
        scores[name] = alignment.summarise(items, outcomes[name], clip_scores.get(name))
    clock.lap("judging")
    return AlignmentReport(
        model=model,
        request=how.resolved(model.pipeline),
        items=items,
        drawn=columns[GENERATED],
        outcomes=outcomes,
        scores=scores,
        clip_scores=clip_scores,
        seconds=clock.laps,
    )


class _Clock:
    """Seconds of each stage, in order."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Close the stage `name`."""
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now
