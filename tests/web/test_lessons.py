"""Lessons: pictures and captions kept in order, looked through, taught in a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import Served, make_studio, served

from latentdiff.errors import UserError
from latentdiff.files import FolderLock
from latentdiff.web.jobs import Job, Line
from latentdiff.web.limits import Limits
from latentdiff.web.teach.lessons import Lessons, NoLessonError
from latentdiff.web.teach.process import follow
from latentdiff.web.teach.teacher import SCRIPT, Teaching, options

PICTURES = 8


def picture(seed: int, side: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def kept(tmp_path: Path) -> Lessons:
    return Lessons(tmp_path / "gallery" / "lessons", most=3, max_pixels=10_000)


def test_a_lesson_is_a_folder_that_training_reads(kept: Lessons) -> None:
    lesson = kept.create("A Dragon!", "tiny", lambda name: name == "a-dragon")
    assert lesson.id == "a-dragon-2"
    for k in range(2):
        kept.add(lesson.id, picture(k), f"  a dragon\n number {k} ")
    kept.caption(lesson.id, "0002.png", "")
    rows = (lesson.picture_folder / "metadata.jsonl").read_text("utf-8").splitlines()
    assert json.loads(rows[0]) == {"file_name": "0001.png", "text": "a dragon number 0"}
    kept.remove_picture(lesson.id, "0001.png")
    assert [p.name for p in kept.get(lesson.id).pictures] == ["0002.png"]
    assert not (lesson.picture_folder / "0001.png").exists()
    assert kept.add(lesson.id, picture(5), "").name == "0003.png"


def test_a_change_forgets_what_the_last_look_found(kept: Lessons) -> None:
    lesson = kept.create("x", "tiny", lambda name: False)
    kept.add(lesson.id, picture(0), "a")
    (lesson.folder / "check.json").write_text('{"usable": 1}')
    assert kept.get(lesson.id).check() == {"usable": 1}
    kept.caption(lesson.id, "0001.png", "b")
    assert kept.get(lesson.id).check() is None


def test_a_lesson_takes_no_other_files_and_not_too_many(kept: Lessons) -> None:
    lesson = kept.create("x", "tiny", lambda name: False)
    for data, said in (
        (b"no picture", "cannot be used"),
        (picture(0, side=101), "too many|at most"),
    ):
        with pytest.raises(UserError, match=said):
            kept.add(lesson.id, data, "")
    for k in range(3):
        kept.add(lesson.id, picture(k), "")
    with pytest.raises(UserError, match="at most 3 pictures"):
        kept.add(lesson.id, picture(4), "")
    for name in ("../lesson.json", "0009.png", "lesson.json"):
        with pytest.raises(NoLessonError):
            kept.picture_file(lesson.id, name)
    with pytest.raises(NoLessonError):
        kept.get("../lessons/x")


def test_a_removed_lesson_lies_in_the_trash(kept: Lessons) -> None:
    lesson = kept.create("x", "tiny", lambda name: False)
    kept.remove(lesson.id)
    assert kept.all() == []
    (gone,) = (kept.folder.parent / "trash").iterdir()
    assert (gone / "lesson.json").is_file()


def test_no_text_of_a_caller_becomes_an_option(kept: Lessons) -> None:
    lesson = kept.create("--init-from /etc", "tiny", lambda name: False)
    teaching = Teaching(minutes=1, trigger_words="--init-from /etc", resume=True)
    words = options(lesson, "folder", teaching)
    assert all(word.startswith("--") for word in words)
    assert not [word for word in words if word.startswith("--init")]
    with pytest.raises(UserError, match="how long"):
        Teaching(minutes=None)


PROGRAM = """
import signal, sys, time
def stop(*_):
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line(max_waiting=4, max_waiting_each=4)
    line.start()
    yield line
    line.close()


def followed(line: Line, log: Path, program: str, *, saves: bool = True) -> Job:
    command = [sys.executable, "-c", program]

    def work(job: Job) -> None:
        follow(command, log, job, lambda: job.report(said=log.read_text()), saves=saves)

    return line.submit(Job(owner="a", asked={}, work=work))


def until(fact: Any) -> None:
    end = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_stopped_training_saves_and_ends(line: Line, tmp_path: Path) -> None:
    job = followed(line, tmp_path / "log", PROGRAM)
    until(lambda: "ready" in job.news.get("said", ""))
    line.stop(job)
    until(lambda: job.state == "stopped")
    assert "saved" in (tmp_path / "log").read_text()


def test_a_stopped_rehearsal_leaves_none_of_its_processes(line: Line, tmp_path: Path) -> None:
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {PROGRAM!r}])"
    job = followed(line, tmp_path / "log", child, saves=False)
    until(lambda: "ready" in job.news.get("said", ""))
    line.stop(job)
    until(lambda: job.state == "stopped")
    assert "saved" not in (tmp_path / "log").read_text()
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "time.sleep(60)" not in found.stdout


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "import sys; print('x: error: the disk is full', file=sys.stderr); sys.exit(2)",
            "the disk is full",
        ),
        ("raise ValueError('no way')", "ValueError: no way"),
        ("import sys; sys.exit(3)", "it said nothing"),
    ],
    ids=["mistake", "bug", "silence"],
)
def test_a_failed_training_says_why(line: Line, tmp_path: Path, program: str, said: str) -> None:
    job = followed(line, tmp_path / "log", program)
    until(lambda: job.state == "failed")
    assert job.error == said


def make_lesson(server: Served, count: int = PICTURES) -> str:
    lesson = server.call("POST", "/v1/lessons", {"title": "an owl"}).json
    for k in range(count):
        sent = server.call(
            "POST",
            f"/v1/lessons/{lesson['id']}/pictures?caption=an%20owl%20at%20night",
            picture(k),
            {"content-type": "image/png"},
        )
        assert sent.status == 201, sent.body
    return str(lesson["id"])


def test_a_look_names_what_cannot_be_learnt_from(server: Served) -> None:
    name = make_lesson(server, 5)
    here = f"/v1/lessons/{name}"
    kind = {"content-type": "image/png"}
    server.call("POST", f"{here}/pictures", picture(0), kind)  # a copy, without a caption
    job = server.job(server.call("POST", f"{here}/check").json)
    assert (job["state"], job["kind"]) == ("done", "check")
    lesson = server.call("GET", here).json
    assert (lesson["check"]["usable"], lesson["check"]["enough"]) == (5, True)
    assert [p["left_out"] for p in lesson["pictures"]] == [None] * 5 + ["the caption is empty"]
    changed = server.call("POST", f"{here}/pictures/0001.png", {"caption": "a cat"})
    assert changed.json["caption"] == "a cat"
    assert server.call("GET", here).json["check"] is None


def test_a_picture_that_was_drawn_here_brings_its_prompt(server: Served) -> None:
    (name,) = server.job(server.draw(prompt="an owl"))["images"]
    data = server.call("GET", f"/v1/images/{name}/png").body
    lesson = server.call("POST", "/v1/lessons", {"title": "drawn"}).json["id"]
    kind = {"content-type": "image/png"}
    sent = server.call("POST", f"/v1/lessons/{lesson}/pictures", data, kind)
    assert sent.json["caption"] == "an owl"


def test_too_little_to_learn_from_is_said_before_anything_is_begun(server: Served) -> None:
    name = make_lesson(server, 2)
    job = server.job(server.call("POST", f"/v1/lessons/{name}/training", {"steps": 3}).json)
    assert job["state"] == "failed"
    assert job["error"] == "2 of the pictures can be learnt from; give some more, with captions"
    resumed = server.call("POST", f"/v1/lessons/{name}/training", {"resume": True})
    assert "no stopped training" in resumed.json["error"]


def test_a_lesson_at_work_is_not_removed_and_its_job_outlives_the_page(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = make_studio(tmp_path, model, limits=Limits())
    asleep = (sys.executable, "-c", "import time; time.sleep(60)")
    monkeypatch.setattr("latentdiff.web.teach.teacher.SCRIPT", asleep)
    assert asleep != SCRIPT
    with served(studio) as server:
        mine = Served(server.studio, server.port, "a" * 32)
        name = make_lesson(mine, 5)
        job = mine.call("POST", f"/v1/lessons/{name}/training", {"steps": 9}).json
        assert mine.call("POST", "/v1/leave").status == 204
        server.until(job, "running")
        again = server.call("POST", f"/v1/lessons/{name}/training", {"steps": 9})
        assert "at work" in again.json["error"]
        assert "at work" in server.call("DELETE", f"/v1/lessons/{name}").json["error"]
        # Whoever comes by sees it, and drawing goes on meanwhile.
        assert [one["id"] for one in server.call("GET", "/v1/jobs").json] == [job["id"]]
        assert server.job(server.draw())["state"] == "done"
        time.sleep(1.5)  # a closed page's drawings would be stopped by now
        assert server.job(job, wait=0)["state"] == "running"
        server.call("POST", f"/v1/jobs/{job['id']}/stop")
        assert server.job(job)["state"] in ("stopping", "stopped")


def test_a_run_of_another_server_is_left_in_peace(server: Served) -> None:
    name = make_lesson(server, 1)
    run = server.studio.teacher.lessons.get(name).run
    with FolderLock(run):
        for method, path in (("POST", "/training"), ("DELETE", "")):
            body = {"steps": 3} if path else None
            refused = server.call(method, f"/v1/lessons/{name}{path}", body)
            assert refused.json["error"] == "another server teaches this lesson at the moment"
    assert server.call("DELETE", f"/v1/lessons/{name}").status == 204


@pytest.mark.slow
def test_a_lora_is_rehearsed_taught_stopped_resumed_and_drawn_with(
    tmp_path: Path, model: Path
) -> None:
    with served(make_studio(tmp_path, model)) as server:
        name = make_lesson(server)
        here = f"/v1/lessons/{name}"
        rehearsed = server.call("POST", f"{here}/rehearsal", {"steps": 500}).json
        while (rehearsed := server.job(rehearsed))["state"] in ("waiting", "running"):
            pass
        assert rehearsed["state"] == "done", rehearsed
        assert any(note.startswith("peak memory") for note in rehearsed["notes"])
        job = server.call("POST", f"{here}/training", {"steps": 100_000, "batch_size": 4}).json
        while server.job(job, wait=0)["step"] < 3:
            time.sleep(0.1)
        server.call("POST", f"/v1/jobs/{job['id']}/stop")
        while (job := server.job(job))["state"] == "stopping":
            pass
        assert job["state"] == "stopped"
        lesson = server.call("GET", here).json
        assert lesson["run"]["resumable"]
        last = lesson["run"]["step"]
        more = {"steps": last + 3, "batch_size": 4, "resume": True}
        job = server.call("POST", f"{here}/training", more).json
        while (job := server.job(job))["state"] in ("waiting", "running"):
            pass
        assert job["state"] == "done", job
        lesson = server.call("GET", here).json
        assert (lesson["run"]["ended"], lesson["run"]["step"]) == ("finished", last + 3)
        assert len(lesson["run"]["curves"]["learning"]) >= 3
        assert lesson["run"]["curves"]["held out"]
        sheet = server.call("GET", f"{here}/sheets/{lesson['run']['sheets'][-1]}")
        assert sheet.headers["content-type"] == "image/png"
        assert name in [lora["name"] for lora in server.call("GET", "/v1/loras").json]
        drawing = server.job(server.draw(prompt="an owl", loras=[{"name": name}]))
        assert drawing["state"] == "done", drawing
