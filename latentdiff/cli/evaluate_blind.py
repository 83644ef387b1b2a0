"""`latentdiff evaluate blind`: numbered pictures without their prompts, for a person to name.

Look at `sheet.png`, write down what you see, a line a picture ("3: fox, forest"), into a text
file, and only then score it: `latentdiff evaluate blind -o DIR --answers FILE`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from latentdiff import config, files
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.evaluation.protocol import Item

PROG = "latentdiff evaluate blind"
SHEET, KEY, SCORE = "sheet.png", "key.json", "score.txt"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `latentdiff evaluate blind`."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("blind")
    """Folder for `sheet.png` and, apart from it, `key.json`."""
    answers: Path | None = None
    """Score these answers ("NUMBER: SUBJECT, SETTING", a line each) against the folder's key."""
    model: str = "snowglobe"
    """The model: its name, a diffusers folder, or a hub id."""
    count: int = 24
    """Pictures."""
    salt: int = 0
    """Another number, another selection: nobody can be blind to the same sheet twice."""
    steps: int | None = None
    """Denoising steps; the model's own default if not given."""
    guidance_scale: float | None = None
    """Guidance; the model's own default if not given."""
    scheduler: str = "ddim"
    """Scheduler, as for `latentdiff generate`."""
    batch_size: int = 8
    """Pictures drawn at a time."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the networks."""
    device: str = "auto"
    """Where to draw."""


def main(argv: Sequence[str]) -> int:
    """Write the sheet and its key, or score answers; returns the exit code."""
    options = config.parse(
        Options, argv, prog=PROG, description="Numbered pictures for a person to name."
    )
    if options.answers is not None:
        return score(options.output, options.answers)
    from latentdiff.cli import evaluation_parts as parts
    from latentdiff.evaluation import protocol
    from latentdiff.evaluation.result_table import Cell, contact_sheet

    chosen = protocol.blind_items(options.count, options.salt)
    loaded = parts.load(options.model, options.dtype, options.device)
    pictures = parts.draw(
        loaded.pipeline,
        chosen,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        scheduler=options.scheduler,
        batch_size=options.batch_size,
    )
    cells = [Cell(picture=p, label=f"{n + 1}") for n, p in enumerate(pictures)]
    with files.atomic_path(options.output / SHEET) as temporary:
        contact_sheet(cells, columns=6).save(temporary)
    files.write_json(options.output / KEY, key(chosen))
    print(f"{options.output / SHEET}: write down what you see, a line a picture: 3: fox, forest")
    print(f"then: {PROG} -o {options.output} --answers FILE   (the key is in {KEY}: do not look)")
    return 0


def key(chosen: Sequence[Item]) -> dict[str, Any]:
    """What was asked for, by the number on the sheet."""
    return {
        str(n + 1): {
            "subject": item.subjects[0],
            "setting": item.setting,
            "group": item.group,
            "prompt": item.prompt,
            "seed": item.seed,
        }
        for n, item in enumerate(chosen)
    }


def read_answers(path: Path) -> dict[str, tuple[str, str]]:
    """ "NUMBER: SUBJECT, SETTING" lines as number -> (subject, setting); "?" is no answer."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the answers in {path} ({error.strerror})") from error
    answers: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = re.fullmatch(r"\s*(\d+)\s*[:.)]\s*([^,]*?)\s*(?:,\s*(.*?)\s*)?", line)
        if found is None:
            raise UserError(
                f"{path}, line {number}: found {line.strip()!r}, expected NUMBER: SUBJECT, SETTING"
            )
        answers[found[1]] = (found[2], found[3] or "")
    return answers


def score(folder: Path, path: Path) -> int:
    """Print and keep the table of answers against the key."""
    from latentdiff.evaluation.alignment import percent
    from latentdiff.evaluation.intervals import wilson
    from latentdiff.evaluation.result_table import table

    try:
        expected: dict[str, Any] = json.loads((folder / KEY).read_text("utf-8"))
    except OSError:
        raise UserError(f"no {KEY} in {folder}; draw the pictures first: {PROG} -o DIR") from None
    answers = read_answers(path)
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
    count = len(expected)
    text = table(["number", "prompt", "seen", "subject", "setting"], rows)
    text += f"\n\nsubject {subjects} of {count}: {percent(wilson(subjects, count))} %"
    text += f"\nsetting {settings} of {count}: {percent(wilson(settings, count))} %\n"
    files.write_text(folder / SCORE, text)
    print(text)
    return 0


def same_subject(answer: str, subject: str) -> bool:
    """Whether the answer is one of the subject's names, in any case, with or without article."""
    from latentdiff.scenes.catalog import SUBJECTS

    return _bare(answer) in {_bare(subject), *map(_bare, SUBJECTS[subject].nouns)}


def same_setting(answer: str, setting: str) -> bool:
    """Whether the answer is the setting's key or one of its phrases ("in the snow", "snow")."""
    from latentdiff.scenes.catalog import SETTINGS

    return _bare(answer) in {_bare(setting), *map(_bare, SETTINGS[setting].all_phrases)}


def _bare(text: str) -> str:
    """Lower case, without articles, leading prepositions, "background" and hyphens."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return " ".join(
        w for w in words if w not in {"a", "an", "the", "in", "on", "at", "plain", "background"}
    )
