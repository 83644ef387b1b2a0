"""`latentdiff evaluate classes` on a tiny model and coloured squares: plumbing, files, messages."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from latentdiff import seeding
from latentdiff.cli.main import run
from latentdiff.measure.measure_classes import class_items

COLOURS = {"amber": (220, 160, 20), "blue": (20, 60, 220), "lime": (120, 230, 40)}


def photographs(folder: Path, each: int, seed: int, size: int = 32) -> Path:
    """A folder for each colour, with noisy squares of about that colour."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for n in range(each):
            noise = seeding.generator(seed, name, n).normal(0, 25, (size, size, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(
                folder / name / f"{n}.png"
            )
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs and a classifier that was trained on them."""
    root = tmp_path_factory.mktemp("classes")
    photographs(root / "real", 12, 0)
    photographs(root / "unseen", 6, 1)
    photographs(root / "pictures", 5, 2, size=80)
    assert judged(root, "--real", str(root / "real"), "--visits", "1000") == 0
    return root


def judged(root: Path, *more: str) -> int:
    pictures = ["--pictures", str(root / "pictures"), "--classifier", str(root / "classifier")]
    return run(["evaluate", "classes", *pictures, *more])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.tiny(), tmp_path_factory.mktemp("models") / "tiny")


def test_pictures_are_recognised_and_reported(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, sheet = tmp_path / "c.json", tmp_path / "c.png"
    unseen = ("--real-validation", str(place / "unseen"))
    assert judged(place, *unseen, "--json", str(report), "-o", str(sheet)) == 0
    said = capsys.readouterr().out
    assert "trained on 36 pictures" in said and "real photographs" in said
    found = json.loads(report.read_text())
    assert found["models"][0]["overall"]["successes"] == 15
    assert found["models"][0]["by_class"]["blue"]["count"] == 5
    assert found["real"]["overall"]["value"] == 1.0
    assert found["classifier"]["facts"]["fingerprint"]
    assert Image.open(sheet).height > 3 * 128


def test_wrong_folders_are_counted_as_wrong_and_compared(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "second", 5, 3)
    for old, new in (("amber", "x"), ("blue", "amber"), ("x", "blue")):
        (tmp_path / "second" / old).rename(tmp_path / "second" / new)
    report = tmp_path / "c.json"
    second = ("--against-pictures", str(tmp_path / "second"))
    assert judged(place, *second, "--json", str(report)) == 0
    found = json.loads(report.read_text())
    first, other = found["models"]
    assert (first["overall"]["successes"], other["overall"]["successes"]) == (15, 5)
    assert other["confusion"] == [[0, 5, 0], [5, 0, 0], [0, 0, 5]]
    assert found["comparison"]["method"] == "unpaired" and found["comparison"]["significant"]
    assert "unpaired: significant" in capsys.readouterr().out


def test_two_models_draw_the_same_prompts_and_seeds(
    place: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, sheet = tmp_path / "c.json", tmp_path / "c.png"
    options = ["--model", str(model), "--against", str(model), "--count", "4", "--steps", "2"]
    options += ["--classifier", str(place / "classifier"), "--dtype", "float32"]
    options += ["--device", "cpu", "--json", str(report), "-o", str(sheet)]
    assert run(["evaluate", "classes", *options]) == 0
    found = json.loads(report.read_text())
    # Item n asks for class n modulo three.
    assert [found["models"][0]["by_class"][c]["count"] for c in COLOURS] == [2, 1, 1]
    assert found["models"][0]["confusion"] == found["models"][1]["confusion"]
    assert found["comparison"]["method"] == "paired" and found["comparison"]["p_value"] == 1.0
    assert "paired: not significant" in capsys.readouterr().out
    assert sheet.is_file()


def test_a_stored_classifier_is_not_mixed_with_other_photographs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged(place, "--real", str(place / "real")) == 0
    assert "trained on 36" in capsys.readouterr().out
    assert judged(place, "--real", str(place / "unseen")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "was trained on other pictures" in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --real PHOTOS"),
        (["--classifier", "missing"], "give --real to train one"),
        (["--real", "missing"], "missing is not there"),
        (["--real", "x", "--prompt", "a photo"], "needs {label}"),
        (["--real", "x", "--against-pictures", "y"], "give --pictures too"),
        (["--real", "x", "--pictures", "y", "--against", "z"], "need a model"),
        (["--real", "x", "--count", "0"], "expected at least 1"),
    ],
)
def test_what_cannot_work_is_said_in_a_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "classes", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("latentdiff: error: ") and error.count("\n") == 1 and said in error


def test_prompts_come_from_captions_or_the_template() -> None:
    names = ("airplane", "hot_dog", "cat")
    default = class_items(names, 4, captions={"cat": "my cat"})
    assert [item.prompt for item in default] == [
        "a photo of an airplane",
        "a photo of a hot dog",
        "my cat",
        "a photo of an airplane",
    ]
    assert len({item.seed for item in default}) == 4
    given = class_items(names[2:], 1, prompt="{label}, snow", captions={"cat": "x"})
    assert given[0].prompt == "cat, snow"
