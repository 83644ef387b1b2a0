"""`latentdiff data check`: what it says, writes and returns, and that it leaves pictures alone."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import tiny
from PIL import Image

from latentdiff.cli.main import run
from latentdiff.models import bundle as bundles
from latentdiff.models.single_file_writer import write_single_file
from latentdiff.scenes.world import World


def scene(index, size=64):
    return Image.fromarray(World(5, size=size).scene(index).image)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for k in range(4):
        scene(k).save(root / f"{k}.png")
        (root / f"{k}.txt").write_text(f"picture {k}")
    return root


def snapshot(root):
    return {
        path.relative_to(root): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def check(*argv):
    return run(["data", "check", *map(str, argv), "--workers", "1"])


def test_a_clean_folder_is_told_so_with_code_0(folder, capsys):
    assert check(folder) == 0
    said = capsys.readouterr().out
    assert counts_of(said)["usable, each once"] == "4" and counts_of(said)["left out"] == "0"
    assert "64x64" in said  # its bucket, of the embedded model's kind
    assert "tokens  captions" in said


def test_problems_are_named_with_code_1_and_originals_are_not_touched(folder, tmp_path, capsys):
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:500])
    (folder / "cut.txt").write_text("cut")
    (folder / "again.png").write_bytes((folder / "1.png").read_bytes())
    (folder / "again.txt").write_text("the same in other words")
    (folder / "long.txt").write_text("a cat and a dog and a bird " * 12)
    scene(8).save(folder / "long.png")
    (folder / "alone.png").write_bytes((folder / "2.png").read_bytes())
    held = tmp_path / "held"
    held.mkdir()
    scene(3).save(held / "leak.bmp")
    (held / "leak.txt").write_text("leaked")
    before = snapshot(tmp_path)
    page, manifest = tmp_path / "page.html", tmp_path / "usable.jsonl"
    code = check(folder, "--validation", held, "--html", page, "--fix", manifest)
    said = capsys.readouterr().out
    assert code == 1
    for line in (
        "cut.png: the PNG is cut off",
        "alone.png: no .txt or .caption file beside it",
        "1.png = again.png",
        "3.png the same pixels as leak.bmp",
        " tokens, beyond the limit: ",
        f"{manifest}: 3 of 7 pictures",
    ):
        assert line in said.replace("again.png = 1.png", "1.png = again.png")
    assert b"cut.png" in page.read_bytes()
    facts = re.findall(r"<dt>(.*?)</dt><dd>(?:<span[^>]*>)?([\d,]+)", page.read_text("utf-8"))
    assert counts_of(said) == dict(facts)  # the same words, the same numbers
    assert counts_of(said)["entries"] == "8"
    after = snapshot(tmp_path)
    assert {k: v for k, v in after.items() if k in before} == before
    assert set(map(str, set(after) - set(before))) == {"page.html", "usable.jsonl"}
    capsys.readouterr()
    assert check(manifest, "--model", "none") == 0


def counts_of(said):
    """The counts at the end of what the terminal shows, in its words."""
    found = re.findall(r"^  (\S.*?)  +([\d,]+)$", said[said.index("\nin all:") :], flags=re.M)
    return dict(found)


def test_a_single_file_counts_tokens_and_sizes_as_its_folder_does(folder, tmp_path, capsys):
    model = tiny.stable_diffusion_1()
    place = write_single_file(model, tmp_path / "model.safetensors")
    for name in (bundles.save(model, tmp_path / "model"), place):
        assert check(folder, "--model", name) in (0, 1)
    one, other = capsys.readouterr().out.split("looked in ")[1:]
    said = [re.sub(r"^.*processes\n", "", text).partition(str(folder))[0] for text in (one, other)]
    assert said[0] == said[1] and "tokens  captions" in said[0] and "64x64" in said[0]


def test_the_model_sets_buckets_and_an_unknown_one_is_a_mistake(folder, capsys):
    assert check(folder, "--model", "none") == 0
    said = capsys.readouterr().out
    assert "crop loss" not in said
    assert "tokens" not in said
    assert check(folder, "--model", folder) == 2
    assert "model_index.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers=0",), "at least 1"),
        (("--seconds=0",), "more than 0"),
        (
            ("--captions-from=me",),
            "is 'me'; expected one of metadata, sidecars, png",
        ),
        (("--html=page.txt",), "must end in .html"),
        (("--fix=/usable.csv",), "must end in .jsonl"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(options, words, folder, capsys):
    assert run(["data", "check", str(folder), *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path, capsys):
    assert check(tmp_path / "nothing") == 2
    assert "is not there" in capsys.readouterr().err


def test_ctrl_c_stops_at_once_and_writes_nothing(tmp_path):
    Image.new("RGB", (5000, 5000)).save(tmp_path / "0.png", compress_level=1)
    for k in range(100):  # about half a minute of decoding
        if k:
            (tmp_path / f"{k}.png").hardlink_to(tmp_path / "0.png")
        (tmp_path / f"{k}.txt").write_text("black")
    names = sorted(os.listdir(tmp_path))
    page = tmp_path / "page.html"
    command = ["data", "check", str(tmp_path), "--model", "none", "--html", str(page)]
    process = subprocess.Popen(
        [sys.executable, "-m", "latentdiff", *command, "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert "100 pictures" in process.stdout.readline()
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "latentdiff: stopped"
    assert "Traceback" not in error
    assert sorted(os.listdir(tmp_path)) == names
