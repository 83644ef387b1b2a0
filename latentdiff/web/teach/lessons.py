"""What LoRAs are taught from: a folder for each lesson, with its pictures, captions and run.

LESSON/lesson.json              its name, model and pictures
LESSON/pictures/                the files, and metadata.jsonl as training reads it
LESSON/check.json, usable.jsonl what the last look through them found, until they change
LESSON/run/                     the training's run folder; run/export is the LoRA
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from latentdiff import files
from latentdiff.errors import UserError
from latentdiff.web.gallery import TRASH, slug
from latentdiff.web.uploads import read_sent

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")
PICTURE = re.compile(r"\d{4}\.(png|jpg|webp|bmp)")
MOST_LESSONS = 100
LONGEST_CAPTION = 2000


class NoLessonError(UserError):
    """No lesson, or none of its pictures, has the name that was asked for."""


@dataclass(frozen=True)
class LessonPicture:
    """A picture to learn from. name: of its file."""

    name: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Lesson:
    """id: of its folder, and the name of its LoRA. model: the base model's name."""

    id: str
    title: str
    model: str
    created: float
    folder: Path
    pictures: tuple[LessonPicture, ...] = ()

    @property
    def picture_folder(self) -> Path:
        """Where the files lie."""
        return self.folder / "pictures"

    @property
    def manifest(self) -> Path:
        """The usable pictures, as the last look found them."""
        return self.folder / "usable.jsonl"

    @property
    def run(self) -> Path:
        """The run folder of its training."""
        return self.folder / "run"

    def check(self) -> dict[str, Any] | None:
        """What the last look found; None when the pictures changed since, or it never was."""
        try:
            found = json.loads((self.folder / "check.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


class Lessons:
    """All lessons of a server. most: pictures of one; max_pixels: of a picture."""

    def __init__(self, folder: Path, *, most: int, max_pixels: int) -> None:
        self.folder, self.most, self.max_pixels = folder, most, max_pixels
        self._lock = threading.RLock()

    def all(self) -> list[Lesson]:
        """The lessons, newest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for place in self.folder.iterdir():
            if (place / "lesson.json").is_file():
                with contextlib.suppress(NoLessonError):  # another program's, or a broken one
                    found.append(self.get(place.name))
        return sorted(found, key=lambda lesson: -lesson.created)

    def get(self, lesson_id: str) -> Lesson:
        """A lesson; NoLessonError for another id."""
        file = self.folder / lesson_id / "lesson.json"
        if not NAME.fullmatch(lesson_id) or not file.is_file():
            raise NoLessonError("no lesson has this id")
        try:
            told = json.loads(file.read_text("utf-8"))
            pictures = tuple(LessonPicture(**one) for one in told["pictures"])
            return Lesson(
                id=lesson_id,
                title=str(told["title"]),
                model=str(told["model"]),
                created=float(told["created"]),
                folder=file.parent.resolve(),
                pictures=pictures,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NoLessonError(f"the lesson {lesson_id} cannot be read ({error})") from error

    def create(self, title: str, model: str, taken: Callable[[str], bool]) -> Lesson:
        """A new lesson without pictures. taken: whether a LoRA has a name already."""
        with self._lock:
            if len(self.all()) >= MOST_LESSONS:
                raise UserError(f"there are {MOST_LESSONS} lessons; remove some first")
            base = name = slug(title) or "lesson"
            for number in range(2, 10_000):
                if not (self.folder / name).exists() and not taken(name):
                    break
                name = f"{base}-{number}"
            lesson = Lesson(name, title, model, time.time(), (self.folder / name).resolve())
            lesson.picture_folder.mkdir(parents=True)
            self._save(lesson)
            return lesson

    def add(self, lesson_id: str, data: bytes, caption: str) -> LessonPicture:
        """Take a picture in; UserError for bytes that are none, or one too many."""
        found = read_sent(data, self.max_pixels)
        with self._lock:
            lesson = self.get(lesson_id)
            if len(lesson.pictures) >= self.most:
                raise UserError(f"a lesson has at most {self.most} pictures")
            number = max((int(p.name[:4]) for p in lesson.pictures), default=0) + 1
            name = f"{number:04d}.{found.suffix}"
            files.write_bytes(lesson.picture_folder / name, data)
            picture = LessonPicture(name, _line(caption), *found.size)
            self._save(replace(lesson, pictures=(*lesson.pictures, picture)))
            return picture

    def caption(self, lesson_id: str, name: str, caption: str) -> LessonPicture:
        """Write a picture's caption."""
        with self._lock:
            lesson = self.get(lesson_id)
            changed = replace(self._picture(lesson, name), caption=_line(caption))
            pictures = tuple(changed if p.name == name else p for p in lesson.pictures)
            self._save(replace(lesson, pictures=pictures))
            return changed

    def remove_picture(self, lesson_id: str, name: str) -> None:
        """Take a picture out of a lesson, and its file away."""
        with self._lock:
            lesson = self.get(lesson_id)
            gone = self._picture(lesson, name)
            self._save(replace(lesson, pictures=tuple(p for p in lesson.pictures if p != gone)))
            (lesson.picture_folder / name).unlink(missing_ok=True)

    def remove(self, lesson_id: str) -> None:
        """Move a lesson, its run and its LoRA to the gallery's trash."""
        with self._lock:
            lesson = self.get(lesson_id)
            trash = self.folder.parent / TRASH
            trash.mkdir(exist_ok=True)
            shutil.move(lesson.folder, trash / f"lesson-{lesson.id}-{secrets.token_hex(3)}")

    def picture_file(self, lesson_id: str, name: str) -> Path:
        """Where a picture of a lesson lies; NoLessonError."""
        lesson = self.get(lesson_id)
        return lesson.picture_folder / self._picture(lesson, name).name

    def sheet_file(self, lesson_id: str, step: int) -> Path:
        """The sample sheet of a step; NoLessonError."""
        path = self.get(lesson_id).run / "sheets" / f"step-{step:08d}.png"
        if not path.is_file():
            raise NoLessonError("no sample pictures were drawn at this step")
        return path

    def _picture(self, lesson: Lesson, name: str) -> LessonPicture:
        found = [p for p in lesson.pictures if p.name == name and PICTURE.fullmatch(name)]
        if not found:
            raise NoLessonError("no picture of this lesson has this name")
        return found[0]

    def _save(self, lesson: Lesson) -> None:
        """Write what a lesson is; what was found in its pictures before no longer counts."""
        told = asdict(lesson)
        del told["id"], told["folder"]
        files.write_json(lesson.folder / "lesson.json", told)
        rows = [{"file_name": p.name, "text": p.caption} for p in lesson.pictures]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files.write_text(lesson.picture_folder / "metadata.jsonl", lines)
        for stale in (lesson.folder / "check.json", lesson.manifest):
            stale.unlink(missing_ok=True)


def _line(caption: str) -> str:
    """A caption on one line, of bounded length."""
    return " ".join(caption.split())[:LONGEST_CAPTION]
