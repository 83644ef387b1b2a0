"""Does the picture show what the prompt asked for? Judged, counted, with intervals.

A measurement is a set of columns over the same items: the generator's pictures, the world's own
renders of the same prompts, and the autoencoder's reconstructions of those renders. The last is
the ceiling: no generator behind that autoencoder can be expected to be judged better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.intervals import Proportion, wilson
from latentdiff.evaluation.judge_network import Verdicts
from latentdiff.evaluation.protocol import GROUPS, HELD_OUT, NAMED, TRAINED, Item
from latentdiff.evaluation.result_table import table

GENERATED, RENDERS, CEILING = "generated", "renders", "ceiling"
QUESTIONS = ("subject", "setting", "both")
RELATIONS = ("left of", "right of")
"""Relations that say who stands on which side; the others are right either way."""
# "all pairs" is every single-subject item with its canonical prompt.
ALL_PAIRS = "all pairs"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One picture against its item.

    `said` are the judge's subjects (as many as were asked for) and its setting. relation: who
    stands on the left is right; None where the prompt does not say, or not both are there.
    """

    subject: bool
    setting: bool
    said: tuple[tuple[str, ...], str]
    relation: bool | None = None

    @property
    def both(self) -> bool:
        """Subject and setting are right."""
        return self.subject and self.setting


def outcomes(items: Sequence[Item], verdicts: Verdicts) -> list[Outcome]:
    """Judge's verdicts against items: top-1 for one subject, the set of the top-2 for two."""
    if len(items) != len(verdicts):
        raise ValueError(f"{len(verdicts)} verdicts for {len(items)} items")
    result = []
    for n, item in enumerate(items):
        said = verdicts.top_subjects(n, len(item.subjects))
        where = verdicts.top_setting(n)
        right = set(said) == set(item.subjects)
        result.append(
            Outcome(
                subject=right,
                setting=where == item.setting,
                said=(said, where),
                relation=_relation(item, verdicts, n) if right else None,
            )
        )
    return result


def _relation(item: Item, verdicts: Verdicts, n: int) -> bool | None:
    if item.relation not in RELATIONS:
        return None
    first_is_left = verdicts.is_left_of(n, *item.subjects)
    return first_is_left == (item.relation == "left of")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One group of one column: three proportions, and the mean CLIP score if it was measured.

    relation: of the pictures that show both subjects of a prompt with "left of" or "right of".
    """

    subject: Proportion
    setting: Proportion
    both: Proportion
    relation: Proportion | None = None
    clip_score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        questions = {name: getattr(self, name).to_json() for name in QUESTIONS}
        relation = None if self.relation is None else self.relation.to_json()
        return {**questions, "relation": relation, "clip_score": self.clip_score}


def members(items: Sequence[Item], group: str) -> list[int]:
    """Positions of a group's items; `ALL_PAIRS` is trained and held-out pairs together."""
    groups = (TRAINED, HELD_OUT) if group == ALL_PAIRS else (group,)
    return [n for n, item in enumerate(items) if item.group in groups]


def summarise(
    items: Sequence[Item],
    results: Sequence[Outcome],
    clip_scores: NDArray[np.floating[Any]] | None = None,
) -> dict[str, Score]:
    """Group -> `Score`, for every group that has items, in the order of the report."""
    scores: dict[str, Score] = {}
    for group in (ALL_PAIRS, *GROUPS, NAMED):
        chosen = members(items, group)
        if not chosen:
            continue
        counts = {
            name: wilson(sum(bool(getattr(results[n], name)) for n in chosen), len(chosen))
            for name in QUESTIONS
        }
        clip = None if clip_scores is None else float(np.mean(clip_scores[chosen]))
        sides = [found for n in chosen if (found := results[n].relation) is not None]
        relation = wilson(sum(sides), len(sides)) if sides else None
        scores[group] = Score(**counts, relation=relation, clip_score=clip)
    return scores


def ratios(column: dict[str, Score], ceiling: dict[str, Score]) -> dict[str, dict[str, float]]:
    """Group -> question -> share of the ceiling that the column reaches; nothing where it is 0."""
    return {
        group: {
            name: getattr(score, name).value / getattr(ceiling[group], name).value
            for name in QUESTIONS
            if getattr(ceiling[group], name).value > 0
        }
        for group, score in column.items()
    }


def print_table(columns: dict[str, dict[str, Score]]) -> str:
    """The report's table: a row a group and column, accuracies in % with 95 % intervals."""
    header = ["group", "pictures", "n", "subject %", "setting %", "both %", "relation %"]
    header += ["CLIP", "of ceiling %"]
    rows = []
    known = (ALL_PAIRS, *GROUPS, NAMED)
    groups = [g for g in known if any(g in column for column in columns.values())]
    for group in groups:
        for name, column in columns.items():
            score = column[group]
            share = ""
            if name == GENERATED and CEILING in columns:
                found = ratios(column, columns[CEILING])[group]
                share = " / ".join(
                    f"{100 * found[q]:.0f}" if q in found else "-" for q in QUESTIONS
                )
            rows.append(
                [
                    group,
                    name,
                    str(score.subject.count),
                    *(percent(getattr(score, question)) for question in QUESTIONS),
                    "" if score.relation is None else percent(score.relation),
                    "" if score.clip_score is None else f"{score.clip_score:.1f}",
                    share,
                ]
            )
    return table(header, rows)


def percent(p: Proportion) -> str:
    """For example "93.4 [90.9, 95.2]"."""
    return f"{100 * p.value:.1f} [{100 * p.low:.1f}, {100 * p.high:.1f}]"
