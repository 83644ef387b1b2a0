"""report.html: what a run left, on one page, whatever state the run's files are in."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from regressor import RegressorTask
from run_task import run_task

from latentdiff import seeding
from latentdiff.cli.main import run as command_line
from latentdiff.errors import UserError
from latentdiff.sheet import boxes, contact_sheet
from latentdiff.training.paired_losses import Group, PairedLosses
from latentdiff.training.record import environment
from latentdiff.training.record.run_history import read_history
from latentdiff.training.record.run_report import write_report
from latentdiff.training.record.validation import ValidationLog
from latentdiff.training.train_config import TrainConfig

HOSTILE = '</pre><script>alert("1")</script>'


class Tags(HTMLParser):
    """Checks that tags close in order; collects `src`, and the text that is shown."""

    VOID = frozenset({"img", "meta", "br", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def losses(shift: float) -> PairedLosses:
    n = 64
    group: list[Group] = ["held-out" if k < n // 2 else "train" for k in range(n)]
    noise = 0.01 * seeding.generator(0, "losses", str(shift)).random(n)
    return PairedLosses(
        ids=tuple(str(k // 2) for k in range(n)),
        t=np.arange(n) * 997 % 1000,
        losses=1.0 + shift + noise,
        group=tuple(group),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that was resumed at step 20, after step 40 had been reached and lost."""
    root = tmp_path / "cats <and> dogs"
    (root / "sheets").mkdir(parents=True)
    (root / "config.yaml").write_text("model: snowglobe\ntrain:\n  steps: 60\n  seed: 7\n")
    rows: list[dict[str, object]] = [
        {
            "event": "begin",
            "step": 0,
            "time": 1.0,
            "how": "1 process",
            "command": f"train {HOSTILE}",
        }
    ]
    lost = [{"event": "train", "step": s, "time": 2.0, "loss": 9e9} for s in (30, 40)]
    kept = [
        {
            "event": "train",
            "step": s,
            "time": 3.0,
            "loss": 1 / s,
            "grad_norm": 1.0,
            "positions": 4 * s,
        }
        for s in (10, 20, 30, 40, 50, 60)
    ]
    again = {"event": "begin", "step": 20, "time": 2.5, "how": "1 process", "source": "step-20"}
    rows += [*kept[:2], *lost, again, *kept[2:]]
    (root / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = ValidationLog(root / "validation")
    for step, shift in ((0, 0.0), (30, -0.25), (60, -0.5)):
        log.record(step, losses(shift))
    for step in (0, 60):
        Image.new("RGB", (8, 4), (step, 0, 0)).save(root / "sheets" / f"step-{step:08d}.png")
    return root


def test_the_page_holds_everything_and_fetches_nothing(folder: Path) -> None:
    page = write_report(folder)
    assert page == folder / "report.html"
    text = page.read_text("utf-8")
    tags = Tags(text)
    assert "script" not in tags.seen
    assert tags.sources and all(source.startswith("data:") for source in tags.sources)
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://", text)
    for said in ("cats <and> dogs", f"train {HOSTILE}", "model: snowglobe", "60 of 60", "240"):
        assert said in tags.text
    assert "significantly below that of step 0" in tags.text and "-0.5" in tags.text
    assert "2 sittings" in tags.text and "resumed" in tags.text


def test_sheets_are_inside_as_they_were_drawn(folder: Path) -> None:
    recipe = {"pictures": [{"command": 'latentdiff generate "a <cat>" --seed 3'}]}
    (folder / "sheets" / "step-00000060.json").write_text(json.dumps(recipe))
    tags = Tags(write_report(folder).read_text("utf-8"))
    found = [base64.b64decode(source.partition(",")[2]) for source in tags.sources]
    # The newest comes first.
    assert found == [(folder / "sheets" / f"step-{s:08d}.png").read_bytes() for s in (60, 0)]
    assert 'latentdiff generate "a <cat>" --seed 3' in tags.text


def test_the_newest_pictures_stand_over_their_prompts(folder: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    pictures = [Image.new("RGB", (6, 4), colour) for colour in colours]
    contact_sheet(pictures, columns=2, gap=2).save(folder / "sheets" / "step-00000060.png")
    places = boxes(3, (6, 4), 2, 2, 2)
    told = [
        {"prompt": f"{HOSTILE} {k}", "command": f"draw {k}", "box": list(box)}
        for k, box in enumerate(places)
    ]
    (folder / "sheets" / "step-00000060.json").write_text(json.dumps({"pictures": told}))
    tags = Tags(write_report(folder).read_text("utf-8"))
    assert len(tags.sources) == 3 + 1  # and the sheet of step 0
    for k, colour in enumerate(colours):
        picture = Image.open(io.BytesIO(base64.b64decode(tags.sources[k].partition(",")[2])))
        assert picture.size == (6, 4) and picture.getpixel((3, 2)) == colour
        assert f"{HOSTILE} {k}" in tags.text
    for box in ([0, 0, 99, 4], [1, 2], "x", None):  # of no such place: the sheet as it is
        told[1]["box"] = box
        (folder / "sheets" / "step-00000060.json").write_text(json.dumps({"pictures": told}))
        assert len(Tags(write_report(folder).read_text("utf-8")).sources) == 2


def test_a_large_sheet_is_scaled_down_and_many_are_picked_from(folder: Path) -> None:
    noise = seeding.generator(0, "noise").integers(0, 256, (300, 2000, 3), dtype=np.uint8)
    for step in range(1, 40):
        file = folder / "sheets" / f"step-{step:08d}.png"
        (Image.fromarray(noise) if step == 39 else Image.new("RGB", (4, 4))).save(file)
    (folder / "sheets" / "step-00000060.png").unlink()
    page = write_report(folder)
    tags = Tags(page.read_text("utf-8"))
    assert len(tags.sources) == 10 and "10 of 40 sheets" in tags.text
    large = Image.open(io.BytesIO(base64.b64decode(tags.sources[0].partition(",")[2])))
    assert large.format == "JPEG" and large.width == 1024
    assert page.stat().st_size < 1_500_000


def test_steps_that_a_resume_undid_are_not_drawn(folder: Path) -> None:
    history = read_history(folder)
    steps, values = history.train["loss"]
    assert steps == [10, 20, 30, 40, 50, 60]
    assert values == pytest.approx([1 / s for s in steps])
    assert len(history.begins) == 2 and (20, "resumed") in history.marks


def test_damaged_files_cost_their_own_part_only(folder: Path) -> None:
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"event": "tra')
    (folder / "data.json").write_text("{")
    (folder / "sheets" / "step-00000060.png").write_bytes(b"not a picture")
    (folder / "sheets" / "step-00000000.json").write_text("[")
    (folder / "validation" / "step-00000030.json").write_text("{}")
    (folder / "config.yaml").write_text("a: [")
    tags = Tags(write_report(folder).read_text("utf-8"))
    assert "Not shown" in tags.text and "1 line of log.jsonl" in tags.text
    for name in ("data.json", "step-00000060.png", "step-00000030.json", "config.yaml"):
        assert name in tags.text
    assert "significantly below" in tags.text and len(tags.sources) == 1


def test_the_data_is_summed_up_whatever_its_keys(folder: Path) -> None:
    data = {
        "summary": "photos: 8,000 pictures",
        "buckets": "bucket  count\n128×128  8000",
        "bucket_rows": [{"width": 128, "crop": "0 %"}, {"width": 96, "crop": HOSTILE}],
        "captions": {"lengths": {"counts": [1, 2], "edges": [0, 4, 8], "title": "Token counts"}},
    }
    (folder / "data.json").write_text(json.dumps(data))
    bad = [{"id": f"{k % 3}.jpg", "code": "truncated", "reason": HOSTILE} for k in range(9)]
    (folder / "bad_samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    tags = Tags(write_report(folder).read_text("utf-8"))
    for said in ("photos: 8,000 pictures", "128×128  8000", "0 %", "Token counts", HOSTILE):
        assert said in tags.text
    # Met again in later epochs, they are still three.
    assert "Bad samples: 3, skipped" in tags.text and "3 truncated" in tags.text


def test_a_run_that_broke_down_says_so_first(folder: Path) -> None:
    with (folder / "log.jsonl").open("a") as log:
        row = {"event": "non_finite", "step": 61, "time": 4.0, "message": "the loss is NaN"}
        log.write(json.dumps(row) + "\n")
    tags = Tags(write_report(folder).read_text("utf-8"))
    assert re.search(r"Stopped at step 61.*the loss is NaN", tags.text.partition("Validation")[0])


def test_no_gain_and_overfitting_are_said_plainly(folder: Path) -> None:
    for step, shift in ((30, 0.0), (60, 0.00001)):
        ValidationLog(folder / "validation").record(step, losses(shift))
    assert "does not differ significantly" in write_report(folder).read_text("utf-8")
    worse = losses(0.2)
    train = np.asarray(worse.group) == "train"
    mixed = PairedLosses(
        ids=worse.ids, t=worse.t, losses=worse.losses - 0.9 * train, group=worse.group
    )
    ValidationLog(folder / "validation").record(60, mixed)
    text = write_report(folder).read_text("utf-8")
    assert "significantly above that of step 0" in text and "overfitting." in text


def test_of_few_updates_little_is_said(folder: Path) -> None:
    for file in (folder / "validation").iterdir():
        file.unlink()
    log = ValidationLog(folder / "validation")
    log.record(0, losses(0.0))
    log.record(1, losses(-0.25))
    text = write_report(folder).read_text("utf-8")
    assert "Only 1 update lies between" in text and "too few to say anything" in text
    assert "significantly below" not in text


def test_a_real_run_has_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(
        run_dir=tmp_path / "run", steps=6, batch_size=4, log_every=2, validate_every=3,
        sheet_every=3, tensorboard=False, warmup_steps=1, device="cpu",
    )  # fmt: skip
    run_task(RegressorTask(), config)
    assert command_line(["report", str(tmp_path / "run")]) == 0
    assert str(tmp_path / "run" / "report.html") in capsys.readouterr().out
    tags = Tags((tmp_path / "run" / "report.html").read_text("utf-8"))
    for said in ("6 of 6", "Training loss", "Learning rate", "Gradient norm", "batch_size: 4"):
        assert said in tags.text
    assert "Not shown" not in tags.text and "Finished at step 6" in tags.text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither config\.yaml nor log\.jsonl"):
        write_report(tmp_path)
    assert command_line(["report", str(tmp_path)]) == 2


def test_the_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", "text-to-image", "--prompt", 'a "cat"']
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/latentdiff", *arguments])
    assert environment.command() == "latentdiff train text-to-image --prompt 'a \"cat\"'"
    monkeypatch.setattr("sys.argv", ["scripts/my run.py", "--steps", "3"])
    assert environment.command() == "python 'scripts/my run.py' --steps 3"
    monkeypatch.setattr("sys.argv", ["/a/venv/train_scripts/vae.py", "--steps", "3"])
    assert environment.command() == "python -m latentdiff.train_scripts.vae --steps 3"
    found = environment.describe()
    assert found["torch"] and int(found["cores"]) >= 1 and "Python" in found
