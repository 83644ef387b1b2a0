"""The jobs of a lesson: look through its pictures, rehearse its training, train."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from latentdiff import files
from latentdiff.errors import UserError
from latentdiff.html.charts import smooth
from latentdiff.models import model_folder
from latentdiff.training.record.run_history import RunHistory, read_history
from latentdiff.web.jobs import Job, Kind
from latentdiff.web.shelf import TAUGHT, Shelf
from latentdiff.web.teach.lessons import Lesson, Lessons
from latentdiff.web.teach.looking import look_through
from latentdiff.web.teach.process import follow

SCRIPT = (sys.executable, "-m", "latentdiff.train_scripts.text_to_image")
SMALL = (
    *("--targets=all", "--caption-dropout=0", "--weighting=simple", "--channels-last"),
    *("--learning-rate=1e-3", "--batch-size=16"),
)
"""What teaches the embedded model well (docs/fine-tune.md); others take the preset's settings."""
EVERY = 50
"""Updates between looks at held-out pictures and sample sheets."""
UNBOUNDED = 1_000_000
"""Updates of a run that ends by its minutes."""
POINTS = 200
"""Of a curve that is sent to a browser."""
EARLIER = "earlier-run-"
HELD_OUT = "held-out/loss"
"""The curve of pictures that are not learnt from, as the training logs it."""


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """How to teach. minutes, steps: when to end, whichever comes first. Others: the preset's where
    they are None. resume: go on with the run that was stopped, in place of a new one."""

    minutes: float | None = 10.0
    steps: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    rank: int | None = None
    trigger_words: str = ""
    resume: bool = False

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise UserError("say how long to teach: minutes, steps, or both")


class Teacher:
    """Does the jobs of lessons, one at a time, the heavy ones in processes of their own."""

    def __init__(self, lessons: Lessons, shelf: Shelf) -> None:
        self.lessons, self.shelf = lessons, shelf

    def job(self, lesson_id: str, kind: Kind, owner: str, teaching: Teaching | None = None) -> Job:
        """A job of a lesson; NoLessonError, UserError for what cannot be begun."""
        lesson = self.lessons.get(lesson_id)
        if teaching is not None and teaching.resume and not can_resume(lesson):
            raise UserError("there is no stopped training to go on with; begin a new one")
        asked = {"lesson": lesson.id, "title": lesson.title}
        return Job(owner, asked, partial(self._work, lesson.id, kind, teaching), kind=kind)

    def _work(self, lesson_id: str, kind: Kind, teaching: Teaching | None, job: Job) -> None:
        if teaching is None:
            self.check(lesson_id, job)
        elif kind == "rehearsal":
            self.rehearse(lesson_id, job, teaching=teaching)
        else:
            self.train(lesson_id, job, teaching=teaching)

    def check(self, lesson_id: str, job: Job) -> None:
        """Look through the pictures. The job's work."""
        lesson = self.lessons.get(lesson_id)

        def progress(done: int, total: int) -> None:
            job.check()
            job.report(stage=f"looking at picture {done} of {total}", progress=done / (total or 1))

        job.report(stage="looking at the pictures")
        _, source = self.shelf.model_of(lesson.model)
        found = look_through(lesson, source, progress)
        if self.lessons.get(lesson_id).pictures == lesson.pictures:  # else it is stale already
            files.write_json(lesson.folder / "check.json", found)

    def rehearse(self, lesson_id: str, job: Job, *, teaching: Teaching) -> None:
        """Try all parts of the training in a minute or two. The job's work."""
        lesson, command = self._prepared(lesson_id, teaching, job)
        log = lesson.folder / "rehearsal.log"

        def tick() -> None:
            lines = log.read_text("utf-8", "replace").splitlines()
            said = [x.removeprefix("rehearsal: ") for x in lines if x.startswith("rehearsal: ")]
            if not said:
                return
            part = said[-1].partition("/")[0]
            done = (int(part) - 1) / 4 if part.isdecimal() else 1.0
            told = [" ".join(line.split()) for line in lines if line.startswith("  ")]
            job.report(stage=said[-1].partition("  ")[2] or said[-1], progress=done, notes=told)

        job.report(stage="starting")
        try:
            follow([*command, "--rehearse"], log, job, tick, saves=False)
        finally:
            for left in lesson.folder.glob("latentdiff-rehearsal-*"):
                shutil.rmtree(left, ignore_errors=True)

    def train(self, lesson_id: str, job: Job, *, teaching: Teaching) -> None:
        """Teach the LoRA; stopping it leaves a checkpoint. The job's work."""
        lesson, command = self._prepared(lesson_id, teaching, job)
        if not teaching.resume:
            _set_aside(lesson)
        job.report(stage="starting", progress=0.0)
        tick = partial(_report, lesson, teaching, job)
        follow(command, lesson.folder / "train.log", job, tick, saves=True)

    def _prepared(self, lesson_id: str, teaching: Teaching, job: Job) -> tuple[Lesson, list[str]]:
        """The lesson, looked through, and the command that trains it."""
        lesson = self.lessons.get(lesson_id)
        if lesson.check() is None or not lesson.manifest.is_file():
            self.check(lesson_id, job)
        found = lesson.check()
        if found is None or not found.get("enough"):
            count = 0 if found is None else int(found.get("usable", 0))
            raise UserError(
                f"{count} of the pictures can be learnt from; give some more, with captions"
            )
        _, source = self.shelf.model_of(lesson.model)
        return lesson, [*SCRIPT, *options(lesson, source, teaching)]


def options(lesson: Lesson, source: str, teaching: Teaching) -> list[str]:
    """The training script's options. Each is one word, so that no text becomes another option."""
    found = [
        "--preset=lora",
        f"--base={source}",
        f"--data={lesson.manifest}",
        "--upscale",
        f"--run-dir={lesson.run}",
        f"--cache={lesson.folder / 'cache'}",
        f"--validate-every={EVERY}",
        f"--sheet-every={EVERY}",
        "--log-every=1",
        "--checkpoint-minutes=2",
        "--no-tensorboard",
        f"--steps={teaching.steps or UNBOUNDED}",
    ]
    if source in model_folder.BUILT_IN:
        found += SMALL
    for name in ("learning_rate", "batch_size", "rank"):
        value = getattr(teaching, name)
        if value is not None:
            found.append(f"--{name.replace('_', '-')}={value}")
    if teaching.minutes is not None:
        found.append(f"--max-minutes={teaching.minutes:g}")
    if teaching.trigger_words.strip():
        found.append(f"--trigger-words={' '.join(teaching.trigger_words.split())}")
    return [*found, *(["--resume"] if teaching.resume else [])]


def can_resume(lesson: Lesson) -> bool:
    """Whether a training stands there that can go on."""
    folder = lesson.run / "checkpoints"
    return folder.is_dir() and any(folder.glob("step-*"))


def _set_aside(lesson: Lesson) -> None:
    """Make room for a new run; the one before stays beside it."""
    if not lesson.run.exists():
        return
    refuse_in_use(lesson)
    number = 1
    while (lesson.folder / f"{EARLIER}{number}").exists():
        number += 1
    lesson.run.rename(lesson.folder / f"{EARLIER}{number}")


def refuse_in_use(lesson: Lesson) -> None:
    """UserError while a training runs that is not a job of this server: another's, or one that its
    server did not outlive."""
    if not lesson.run.exists():
        return
    try:
        with files.FolderLock(lesson.run):
            pass
    except UserError as error:
        raise UserError("another server teaches this lesson at the moment") from error


def _report(lesson: Lesson, teaching: Teaching, job: Job) -> None:
    """How far the run is, from its log."""
    try:
        history = read_history(lesson.run)
    except UserError:
        return  # it has not begun to write
    minutes = history.last("minutes")
    shares = [history.last_step / teaching.steps] if teaching.steps else []
    if teaching.minutes and math.isfinite(minutes):
        shares.append(minutes / teaching.minutes)
    progress = min(1.0, max(shares, default=0.0))
    left = 60 * minutes * (1 - progress) / progress if progress and minutes > 0 else None
    if not history.train:
        stage = "looking at what it can do before"
    else:
        stage = "saving what was learnt" if job.stop_requested else "learning"
    news = {
        "stage": stage,
        "step": history.last_step,
        "steps": teaching.steps or 0,
        "progress": progress,
        "seconds_left": None if left is None else round(left),
    }
    if any(job.news.get(key) != value for key, value in news.items()):
        job.report(**news)


def run_of(lesson: Lesson) -> dict[str, Any] | None:
    """What a lesson's run tells so far, as plain values; None when there is none."""
    history: RunHistory | None = None
    with contextlib.suppress(UserError):
        history = read_history(lesson.run)
    if history is None:
        return None
    return {
        "began": str(history.begins[0].get("time", "")) if history.begins else "",
        "step": history.last_step,
        "minutes": _finite(history.last("minutes")),
        "ended": history.ended,
        "trouble": history.trouble,
        "curves": _curves(history),
        "sheets": [sheet.step for sheet in history.sheets],
        "resumable": can_resume(lesson),
        "learnt": (lesson.folder / TAUGHT).is_file(),
    }


def _curves(history: RunHistory) -> dict[str, list[tuple[float, float]]]:
    """The learning curves, smoothed and thinned: name → points (update, value)."""
    found = {}
    steps, losses = history.train.get("loss", ([], []))
    if steps:
        found["learning"] = _thin(steps, smooth(losses, window=max(1.0, len(losses) / 20)))
    if HELD_OUT in history.validate:
        found["held out"] = _thin(*history.validate[HELD_OUT])
    return found


def _thin(x: list[float], y: list[float]) -> list[tuple[float, float]]:
    """At most `POINTS` finite points of a curve, the last one among them."""
    points = [(a, round(b, 6)) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
    step = -(-len(points) // POINTS) or 1
    return [*points[:-1:step], *points[-1:]]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
