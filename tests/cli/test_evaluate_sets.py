"""`latentdiff evaluate images | sweep | compare | likelihood | reconstruction` on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentdiff.cli.main import run
from latentdiff.measure import picture_sets
from latentdiff.measure.results import plots, report, store

FAST = ("--device", "cpu", "--dtype", "float32")


def numbers(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / report.NUMBERS).read_text("utf-8"))
    return found


def sweep(model: Path, out: Path, *more: str) -> int:
    axes = ("--sweep", "steps=2,3", "--sweep", "with=eta=0|scheduler=ddim-sigma-hat")
    sizes = ("--count", "6", "--scenes", "8", "--reference", "steps=3")
    where = ("--model", str(model), "-o", str(out), *FAST)
    return run(["evaluate", "sweep", *axes, *sizes, *where, *more])


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    """Several parts of few pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture_sets, "PART", 4)
        yield


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that ran through."""
    folder = tmp_path_factory.mktemp("whole")
    assert sweep(model, folder) == 0
    return folder


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where matplotlib is not installed, which is quicker."""
    monkeypatch.setattr(plots, "there", lambda: False)


def test_a_sweep_measures_every_cell_and_writes_one_page(whole: Path) -> None:
    found = numbers(whole)
    assert [(c["steps"], c["with"]) for c in found["cells"]] == [
        (steps, kind) for kind in ("eta=0", "scheduler=ddim-sigma-hat") for steps in ("2", "3")
    ]
    for cell in found["cells"]:
        assert cell["pictures"] == 6 and cell["calls"] == 2 * int(cell["steps"])
        assert cell["frechet"]["low"] < cell["frechet"]["value"] < cell["frechet"]["high"]
        assert (cell["psnr"] is None) == (cell["steps"] == "3")
        assert cell["setting"]["count"] == 6
    assert found["command"] and found["models"][0]["hashes"]["unet"] and found["date"]
    page = (whole / report.PAGE).read_text("utf-8")
    assert "http" not in page.split("<body>")[1] and "data:image/png" in page
    assert Image.open(whole / "frechet.png").width > 400
    assert "| 2 | scheduler=ddim-sigma-hat |" in (whole / report.TABLES).read_text("utf-8")


def test_a_killed_sweep_goes_on_and_ends_in_the_same_table(
    model: Path, whole: Path, tmp_path: Path, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, made = store.ResultStore.put, []

    def stop_after_five(self: Any, key: Any, arrays: Any) -> None:
        put(self, key, arrays)
        made.append(self.path(key))
        if len(made) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.ResultStore, "put", stop_after_five)
        assert sweep(model, tmp_path) == 130
    assert not (tmp_path / report.PAGE).exists()
    before = {path: path.stat().st_mtime_ns for path in made}
    assert sweep(model, tmp_path) == 0
    tables = [(folder / report.TABLES).read_text("utf-8") for folder in (tmp_path, whole)]
    assert tables[0] == tables[1]
    assert {path: path.stat().st_mtime_ns for path in made} == before


def test_shares_together_make_the_parts_of_one_process(
    model: Path, whole: Path, tmp_path: Path
) -> None:
    for shard in ("1/2", "2/2"):
        assert sweep(model, tmp_path, "--shard", shard) == 0
        assert not (tmp_path / report.PAGE).exists()
    parts = [sorted(p.name for p in (f / store.PARTS).iterdir()) for f in (whole, tmp_path)]
    assert parts[0] == parts[1]


def test_costly_cells_draw_fewer_pictures_but_eight(
    no_plots: None, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--sweep", "steps=2,10", "--count", "12", "--scenes", "8", "--most-calls", "40")
    assert run(["evaluate", "sweep", *options, "--model", str(model), "-o", str(out), *FAST]) == 0
    assert [cell["pictures"] for cell in numbers(out)["cells"]] == [10, 8]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--sweep", "stepz=1,2"), "steps"),
        (("--sweep", "steps=0,2"), "steps"),
        (("--sweep", "steps=2", "--reference", "eta=0"), "not swept"),
        (("--sweep", "steps=2", "--shard", "3/2"), "shard"),
        ((), "nothing to sweep"),
    ],
)
def test_a_sweep_says_what_is_wrong_in_a_line(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    said: str,
) -> None:
    base = ["evaluate", "sweep", "--model", str(model), "-o", str(tmp_path / "o"), *FAST]
    assert run([*base, "--count", "8", "--scenes", "8", *more]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("latentdiff: error: ") and said in error


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with captions, one of them broken."""
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(9):
        noise = np.random.default_rng(n).integers(0, 256, (40, 48, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text("a cat in the snow")
    (folder / "9.png").write_bytes((folder / "8.png").read_bytes()[:600])
    (folder / "9.txt").write_text("a dog")
    return folder


def test_images_measures_a_model_against_a_folder_and_its_captions(
    no_plots: None, model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--count", "8", "--steps", "2", *FAST, "-o", str(tmp_path / "o")]
    command = ["evaluate", "images", str(model), "--against", str(pictures)]
    assert run([*command, "--held-out", str(pictures), *options]) == 0
    found, said = numbers(tmp_path / "o"), capsys.readouterr().out
    assert found["second"]["pictures"] == 9  # the broken one is left out
    assert found["first"]["pictures"] == 8 and found["clip_score"] is not None
    assert found["kid"]["value"] > 0 and found["memorisation"]["held_out_copies"]["count"] == 9
    assert "CLIP score" in said and "copies of the second set" in said


def test_pictures_have_no_distance_from_themselves(
    no_plots: None, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    assert (
        run(["evaluate", "images", str(pictures), "--against", str(pictures), "-o", str(out)]) == 0
    )
    found = numbers(out)
    assert found["frechet"]["value"] == pytest.approx(0, abs=1e-4)
    assert found["precision"]["value"] == found["recall"]["value"] == 1


def test_compare_finds_no_difference_between_a_model_and_itself(
    no_plots: None, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    options = ["--count", "8", "--scenes", "8", "--steps", "2", *FAST, "-o", str(out)]
    assert run(["evaluate", "compare", str(model), str(model), *options]) == 0
    found = numbers(out)
    assert found["shares"]["setting"]["difference"] == 0
    assert found["shares"]["setting"]["p_value"] == 1
    assert found["frechet_difference"]["value"] == 0 and found["psnr"] == 100
    assert "no, p = 1" in capsys.readouterr().out


def test_likelihood_adds_its_terms_and_takes_scenes_or_a_folder(
    no_plots: None, model: Path, pictures: Path, tmp_path: Path
) -> None:
    for data in ("scenes", str(pictures)):
        out = tmp_path / Path(data).name
        options = ["--count", "10", "--levels", "10", "40", "--terms", "4", "--data", data, *FAST]
        assert run(["evaluate", "likelihood", "--model", str(model), *options, "-o", str(out)]) == 0
        levels = numbers(out)["levels"]
        assert [level["levels"] for level in levels] == [10, 40]
        for level in levels:
            assert level["low"] < level["bits_per_dimension"] < level["high"]
            assert level["prior"] == pytest.approx(levels[0]["prior"], rel=1e-6)


def test_reconstruction_errs_less_with_more_steps(
    no_plots: None, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    options = ["--count", "4", "--steps", "2", "40", *FAST, "-o", str(out)]
    assert run(["evaluate", "reconstruction", "--model", str(model), *options]) == 0
    few, many = numbers(out)["round_trips"]
    assert many["latents"] < few["latents"]
    assert few["pictures"] == many["pictures"] == 4
