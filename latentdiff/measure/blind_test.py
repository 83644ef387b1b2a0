"""Numbered pictures without their prompts, for a person to name; and the score of what was seen."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from latentdiff import files
from latentdiff.errors import UserError
from latentdiff.evaluation.alignment import percent
from latentdiff.evaluation.intervals import wilson
from latentdiff.evaluation.protocol import Item
from latentdiff.evaluation.result_table import table
from latentdiff.files.text_file import read_lines
from latentdiff.measure.drawing import Drawing
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.scenes.catalog import SETTINGS, SUBJECTS
from latentdiff.sheet import Cell, labelled_sheet

SHEET, KEY, SCORE = "sheet.png", "key.json", "score.txt"
Answers = Mapping[str, tuple[str, str]]
"""Number on the sheet → (subject, setting), "" where nothing was said."""


def draw_sheet(
    model: MeasuredModel, items: Sequence[Item], folder: Path, drawing: Drawing | None = None
) -> Path:
    """Write `sheet.png` with the numbered pictures and, apart from it, `key.json`; the sheet."""
    drawn = (drawing or Drawing()).items(model.pipeline, items)
    cells = [Cell(picture=p, label=f"{n}") for n, p in enumerate(drawn, 1)]
    sheet: Image.Image = labelled_sheet(cells, columns=6)
    with files.atomic_path(folder / SHEET) as temporary:
        sheet.save(temporary)
    files.write_json(folder / KEY, key(items))
    return folder / SHEET


def key(items: Sequence[Item]) -> dict[str, Any]:
    """What was asked for, by the number on the sheet."""
    return {
        str(n): {
            "subject": item.subjects[0],
            "setting": item.setting,
            "group": item.group,
            "prompt": item.prompt,
            "seed": item.seed,
        }
        for n, item in enumerate(items, 1)
    }


def read_key(folder: Path) -> dict[str, Any]:
    """The key that `draw_sheet` wrote; UserError where there is none."""
    try:
        found: dict[str, Any] = json.loads((folder / KEY).read_text("utf-8"))
    except OSError:
        raise UserError(
            f"no {KEY} in {folder}; draw the pictures first: latentdiff evaluate blind -o DIR"
        ) from None
    return found


def read_answers(path: Path) -> dict[str, tuple[str, str]]:
    """ "NUMBER: SUBJECT, SETTING" lines as number -> (subject, setting); "?" is no answer."""
    answers: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(read_lines(path, "answers"), start=1):
        if not line.strip():
            continue
        found = re.fullmatch(r"\s*(\d+)\s*[:.)]\s*([^,]*?)\s*(?:,\s*(.*?)\s*)?", line)
        if found is None:
            raise UserError(
                f"{path}, line {number}: found {line.strip()!r}, expected NUMBER: SUBJECT, SETTING"
            )
        answers[found[1]] = (found[2], found[3] or "")
    return answers


@dataclass(frozen=True, kw_only=True)
class BlindScore:
    """How many subjects and settings of `count` pictures were named right; table: each of them."""

    count: int
    subjects: int
    settings: int
    rows: Sequence[Sequence[str]]

    def table(self) -> str:
        """A row a picture, then both shares with their 95 % intervals."""
        shares = [
            f"{name} {right} of {self.count}: {percent(wilson(right, self.count))} %"
            for name, right in (("subject", self.subjects), ("setting", self.settings))
        ]
        header = ["number", "prompt", "seen", "subject", "setting"]
        return "\n".join([table(header, self.rows), "", *shares]) + "\n"


def score(expected: Mapping[str, Any], answers: Answers) -> BlindScore:
    """Answers against the key; a picture without an answer counts as wrong."""
    rows, subjects, settings = [], 0, 0
    for number, asked in expected.items():
        subject, setting = answers.get(number, ("", ""))
        of_subject = same_subject(subject, asked["subject"])
        of_setting = same_setting(setting, asked["setting"])
        subjects += of_subject
        settings += of_setting
        seen = ", ".join(filter(None, (subject, setting))) or "?"
        marks = ["yes" if right else "no" for right in (of_subject, of_setting)]
        rows.append([number, asked["prompt"], seen, *marks])
    return BlindScore(count=len(expected), subjects=subjects, settings=settings, rows=rows)


def same_subject(answer: str, subject: str) -> bool:
    """Whether the answer is one of the subject's names, in any case, with or without article."""
    return _bare(answer) in {_bare(subject), *map(_bare, SUBJECTS[subject].nouns)}


def same_setting(answer: str, setting: str) -> bool:
    """Whether the answer is the setting's key or one of its phrases ("in the snow", "snow")."""
    return _bare(answer) in {_bare(setting), *map(_bare, SETTINGS[setting].all_phrases)}


def _bare(text: str) -> str:
    """Lower case, without articles, leading prepositions, "background" and hyphens."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return " ".join(
        w for w in words if w not in {"a", "an", "the", "in", "on", "at", "plain", "background"}
    )
