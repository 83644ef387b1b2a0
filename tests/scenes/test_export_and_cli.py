"""Exports read back by `datasets`, and the `latentdiff scenes` command."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from latentdiff.cli import main as command
from latentdiff.errors import UserError
from latentdiff.scenes import captions
from latentdiff.scenes.export import export, metadata_row, scene_caption
from latentdiff.scenes.world import World
from latentdiff.sheet import contact_sheet


def test_an_export_is_read_back_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    world = World(9, size=64)
    folder = export(tmp_path / "scenes", world, 6, start=20)
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(rows) == 6
    by_index = {row["index"]: row for row in rows}
    for k in range(20, 26):
        scene, row = world.scene(k), by_index[k]
        assert np.array_equal(np.asarray(row["image"]), scene.image)
        assert row["text"] == scene_caption(scene.record)
        assert row["setting"] == scene.record.setting
        assert row["subjects"] == list(scene.record.subjects)
        assert row["boxes"] == [list(p.box) for p in scene.record.placements]


def test_metadata_keeps_the_ground_truth(tmp_path):
    world = World(9, size=64, subjects=["dragon"], settings=["night"], hold_out_pairs=False)
    folder = export(tmp_path / "d", world, 3)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == ["000000.png", "000001.png", "000002.png"]
    for k, line in enumerate(lines):
        assert line == metadata_row(line["file_name"], world.record(k))
        assert line["subjects"] == ["dragon"] and line["relation"] == ""
        assert "dragon" in captions.words(line["text"])


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export(tmp_path / "kept", World(0, size=32), 2)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "mine.txt").read_text() == "mine"


def test_contact_sheet_places_pictures_in_rows():
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = np.asarray(contact_sheet(pictures, columns=2, gap=1))
    assert sheet.shape == (19, 19, 3)
    assert sheet[4, 4, 0] == 10 and sheet[4, 14, 0] == 20 and sheet[14, 4, 0] == 30


def test_sheet_command_writes_a_picture(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    argv = ["scenes", "sheet", "-o", str(out), "--count", "4", "--columns", "2", "--size", "32"]
    assert command.run([*argv, "--subject", "cat", "red car"]) == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG" and picture.size == (76, 76)
    assert capsys.readouterr().out.strip() == str(out)


def test_export_command_writes_only_what_was_asked_for(tmp_path):
    argv = ["scenes", "export", str(tmp_path / "e"), "--count", "5", "--size", "32"]
    assert command.run([*argv, "--subject", "cat", "owl", "--setting", "in the snow"]) == 0
    lines = (tmp_path / "e" / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == 5
    for line in map(json.loads, lines):
        assert line["setting"] == "snow" and set(line["subjects"]) <= {"cat", "owl"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sheet", "--subject", "pengin"], "did you mean 'penguin'"),
        (["sheet", "--count", "0"], "expected 1 or more"),
        (["sheet", "--start", "-1"], "expected 0 or more"),
        (["export", "NEW", "--count", "0"], "expected 1 or more"),
        (["shet"], "did you mean 'sheet'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.run(["scenes", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_list_names_the_world(capsys):
    assert command.run(["scenes", "list"]) == 0
    out = capsys.readouterr().out
    for name in ("penguin", "held-out subjects (24)", "dragon", "underwater", "left of"):
        assert name in out


def test_render_fills_a_pool_with_the_worlds_scenes(tmp_path, capsys):
    argv = ["scenes", "render", str(tmp_path / "pool"), "--count", "3", "--seed", "5"]
    assert command.run([*argv, "--subject", "kitty", "owl", "--workers", "1"]) == 0
    pixels = np.load(tmp_path / "pool" / "pixels.npy", mmap_mode="r")
    expected = World(5, size=256, subjects=("cat", "owl")).scene(2)
    assert np.array_equal(pixels[2], expected.image)


def test_the_scenes_command_loads_no_torch():
    code = (
        "import sys; from latentdiff.cli import main; main.run(['scenes', 'list']); "
        "import latentdiff.scenes.export; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'datasets', 'diffusers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
