"""`latentdiff evaluate` on a tiny model with random weights: plumbing, files, messages."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from latentdiff.cli.main import run
from latentdiff.evaluation import alignment, clip_score, protocol


def test_inversions_are_measured_on_the_same_pictures(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "inversion.json"
    options = ["--count", "2", "--steps", "2,4", "--guidance-scales", "1,3", "--json", str(place)]
    assert run(["evaluate", "inversion", "--model", str(model), "--device", "cpu", *options]) == 0
    rows = json.loads(place.read_text())["rows"]
    told = [(row["way"], row["guidance_scale"], row["steps"]) for row in rows]
    ways = ("DDIM's inverse", "EDICT")
    assert told == [(way, scale, n) for way in ways for scale in (1, 3) for n in (2, 4)]
    for drifting, exact in zip(rows[:4], rows[4:], strict=True):
        assert exact["latent_error"] < 1e-4
        assert exact["latent_error"] < drifting["latent_error"] + 1e-6
    assert capsys.readouterr().out.count("| EDICT |") == 4
    for wrong in (["--steps", "4,x"], ["--prompt", "a cat"], ["--count", "0"], ["--steps", "0"]):
        assert run(["evaluate", "inversion", *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def alignment_of(model: Path, *more: str) -> int:
    options = ["--count", "8", "--steps", "2", "--dtype", "float32", "--device", "cpu"]
    return run(["evaluate", "alignment", "--model", str(model), *options, *more])


def test_alignment_prints_a_table_and_writes_numbers_and_sheet(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, sheet = tmp_path / "a.json", tmp_path / "a.png"
    assert alignment_of(model, "--json", str(report), "-o", str(sheet)) == 0
    said = capsys.readouterr().out
    assert all(group in said for group in protocol.GROUPS)
    found = json.loads(report.read_text())
    columns = {alignment.GENERATED, alignment.RENDERS, alignment.CEILING}
    assert set(found["scores"]) == columns
    assert len(found["pictures"]) == 8 + 1 + 20
    for name in columns:
        counted = sum(picture[name]["subject"] for picture in found["pictures"])
        groups = [found["scores"][name][group]["subject"] for group in protocol.GROUPS]
        assert counted == sum(group["successes"] for group in groups)
    assert found["scores"]["renders"]["paraphrases"]["clip_score"] is not None
    assert Image.open(sheet).width > 128


def test_pictures_do_not_depend_on_the_batch(model: Path, tmp_path: Path) -> None:
    reports = []
    for size in (3, 16):
        report = tmp_path / f"{size}.json"
        options = ("--no-clip", "--no-extras", "--json", str(report), "--batch-size", str(size))
        assert alignment_of(model, *options) == 0
        reports.append(json.loads(report.read_text()))
    assert reports[0]["pictures"] == reports[1]["pictures"]
    assert reports[0]["scores"] == reports[1]["scores"]


@pytest.mark.parametrize(
    ("part", "said"),
    [("judge", "--judge"), (clip_score.FOLDER, "--no-clip")],
)
def test_what_is_missing_is_named_before_anything_is_drawn(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, said: str
) -> None:
    lacking = tmp_path / "lacking"
    shutil.copytree(model, lacking)
    shutil.rmtree(lacking / part)
    assert alignment_of(lacking) == 2
    error = capsys.readouterr().err
    assert error.startswith("latentdiff: error: ") and error.count("\n") == 1
    assert str(lacking / part) in error and said in error


def test_a_judge_from_elsewhere_serves_a_model_without_one(model: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "lacking"
    shutil.copytree(model, lacking)
    (lacking / "judge").rename(tmp_path / "other")
    options = ("--judge", str(tmp_path / "other"), "--no-clip", "--no-extras")
    assert alignment_of(lacking, *options) == 0


def test_autoencoder_prints_psnr_beside_the_floor(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, sheet = tmp_path / "a.json", tmp_path / "a.png"
    options = ["--count", "4", "--device", "cpu", "--json", str(report), "-o", str(sheet)]
    assert run(["evaluate", "autoencoder", "--model", str(model), *options]) == 0
    assert "held-out subjects" in capsys.readouterr().out
    groups = json.loads(report.read_text())["groups"]
    assert groups["base subjects"]["count"] == 4 and groups["held-out subjects"]["count"] == 2
    # Four numbers for a 4×4 patch: every such PCA of these scenes lies in this range.
    assert 20 < groups["base subjects"]["floor"] < 35
    # A network that has learnt nothing stays far below it.
    assert groups["base subjects"]["psnr"] < groups["base subjects"]["floor"] - 5
    assert sheet.is_file()


def test_blind_hides_the_prompts_and_keeps_a_key(model: Path, tmp_path: Path) -> None:
    options = ["--count", "3", "--steps", "1", "--device", "cpu", "-o", str(tmp_path / "b")]
    assert run(["evaluate", "blind", "--model", str(model), *options]) == 0
    key = json.loads((tmp_path / "b" / "key.json").read_text())
    assert list(key) == ["1", "2", "3"]
    assert (tmp_path / "b" / "sheet.png").is_file()


def test_an_unknown_measurement_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "alinment"]) == 2
    assert "'alignment'" in capsys.readouterr().err
