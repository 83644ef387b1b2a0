"""`latentdiff data cache` builds what a training reads, lists it, checks it and cleans it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
from PIL import Image
from safetensors.numpy import load_file

from latentdiff.cli.data import data_cache
from latentdiff.cli.main import run
from latentdiff.data.cache import uses as cache_uses
from latentdiff.data.cache.keys import words
from latentdiff.data.cache.latent_cache import CONTEXTS, MOMENTS, LatentCache
from latentdiff.errors import UserError


def write(folder, number, width=48, height=40):
    draw = np.random.default_rng(number)
    small = Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8))
    picture = small.resize((width, height), Image.Resampling.BICUBIC)
    picture.save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save(tiny.tiny(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = []
    for number in range(6):
        write(folder, number, *((48, 40) if number < 4 else (80, 40)))
        rows.append({"file_name": f"{number}.png", "text": f"a cat {'again' * (number % 2)}"})
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "metadata.jsonl").write_text(lines + "\n")
    return folder


@pytest.fixture
def build(photos, model, tmp_path):
    def build(*options):
        command = ["data", "cache", "build", str(photos), "--cache", str(tmp_path / "cache")]
        return run([*command, "--model", str(model), *options])

    return build


def entries(tmp_path):
    cache = LatentCache(tmp_path / "cache")
    return len(cache.store(MOMENTS)), len(cache.store(CONTEXTS))


def test_build_encodes_all_once_and_says_what(build, tmp_path, capsys):
    assert build() == 0
    out = capsys.readouterr().out
    assert "6 pictures" in out
    assert "bucket" in out
    assert "6 moments" in out
    assert entries(tmp_path) == (6, 3)  # captions: "a cat", "a cat again" and none
    assert build() == 0
    assert "encoded" not in capsys.readouterr().err
    assert build("--flip", "--no-contexts") == 0
    assert entries(tmp_path) == (12, 3)


def test_a_bad_picture_is_named_and_the_rest_is_built(build, photos, tmp_path, capsys):
    whole = (photos / "3.png").read_bytes()
    (photos / "3.png").write_bytes(whole[: len(whole) // 2])
    assert build() == 0
    out = capsys.readouterr().out
    assert "left out: 3.png" in out
    assert "1 of 6 pictures are left out" in out
    assert entries(tmp_path) == (5, 3)


def test_ls_lists_entries_and_uses(build, photos, tmp_path, capsys):
    build()
    capsys.readouterr()
    assert run(["data", "cache", "ls", str(tmp_path / "cache")]) == 0
    out = capsys.readouterr().out
    (use,) = cache_uses.listed(LatentCache(tmp_path / "cache"))
    assert use.id in out
    assert str(photos) in out
    assert "uses (1" in out


def test_verify_names_what_is_damaged_and_repair_removes_it(build, tmp_path, capsys):
    build()
    cache = ["data", "cache", "verify", str(tmp_path / "cache")]
    assert run(cache) == 0
    (shard,) = (tmp_path / "cache" / MOMENTS).iterdir()
    whole = bytearray(shard.read_bytes())
    whole[-1] ^= 1
    shard.write_bytes(whole)
    assert run(cache) == 1
    assert shard.name in capsys.readouterr().out
    assert run([*cache, "--repair"]) == 0
    assert not shard.exists()
    assert run(cache) == 0
    assert build() == 0
    assert entries(tmp_path)[0] == 6


def test_an_edit_that_keeps_size_and_time_stamp_is_seen(build, photos, tmp_path):
    picture = photos / "0.bmp"
    for number, colour in enumerate(("red", "blue")):
        before = picture.stat() if number else None
        Image.new("RGB", (48, 40), colour).save(picture)
        if before is not None:
            assert picture.stat().st_size == before.st_size
            os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert picture.stat().st_mtime_ns == before.st_mtime_ns
        else:
            rows = (photos / "metadata.jsonl").read_text().replace("0.png", "0.bmp")
            (photos / "metadata.jsonl").write_text(rows)
        build()
    assert entries(tmp_path)[0] == 7


def test_gc_drops_what_an_edit_left_behind(build, photos, tmp_path, capsys):
    build()
    write(photos, 77)
    (photos / "77.png").replace(photos / "0.png")
    build()
    assert entries(tmp_path)[0] == 7
    gc = ["data", "cache", "gc", str(tmp_path / "cache")]
    assert run([*gc, "--dry-run"]) == 0
    assert entries(tmp_path)[0] == 7
    assert run(gc) == 0
    assert entries(tmp_path)[0] == 6
    capsys.readouterr()
    build()
    assert "encoded" not in capsys.readouterr().err


def test_gc_keeps_the_uses_that_are_named(build, tmp_path):
    build("--no-contexts")
    build("--no-contexts", "--no-buckets")
    assert entries(tmp_path)[0] == 8  # two of the six change their shape
    square, buckets = cache_uses.listed(LatentCache(tmp_path / "cache"))
    assert "square" in square.about["size"]
    gc = ["data", "cache", "gc", str(tmp_path / "cache")]
    assert run(gc) == 0
    assert entries(tmp_path)[0] == 8
    assert run([*gc, "--keep", buckets.id[:6]]) == 0
    assert entries(tmp_path)[0] == 6
    assert run([*gc, "--keep-days", "0"]) == 0
    assert entries(tmp_path)[0] == 0


class Use:
    def __init__(self, name, days):
        self.id, self.days = name, days


def test_uses_are_kept_by_id_or_by_age():
    uses = [Use("aa11", 1), Use("ab22", 5), Use("cc33", 50)]
    assert data_cache.chosen(uses, (), None) == uses
    assert data_cache.chosen(uses, ("cc",), None) == uses[2:]
    assert data_cache.chosen(uses, ("cc33",), 2) == [uses[0], uses[2]]
    assert data_cache.chosen(uses, ("a",), None) == uses[:2]
    with pytest.raises(UserError, match=r"unknown use 'ab23'; did you mean 'ab22'"):
        data_cache.chosen(uses, ("ab23",), None)


def test_a_wrong_command_or_folder_is_one_line(tmp_path, capsys):
    assert run(["data", "cache", "biuld"]) == 2
    assert "did you mean 'build'" in capsys.readouterr().err
    for command in ("ls", "verify", "gc"):
        assert run(["data", "cache", command, str(tmp_path)]) == 2
        assert "is no latent cache" in capsys.readouterr().err
    assert run(["data", "cache", "--help"]) == 0
    assert "nothing stale is ever read" in capsys.readouterr().out


@pytest.mark.slow
def test_two_launched_processes_build_one_cache(photos, model, tmp_path):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "latentdiff", "data", "cache", "build", str(photos), "--model", str(model)),
        *("--cache", str(tmp_path / "cache")),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert done.stdout.count("6 pictures") == 1
    assert entries(tmp_path) == (6, 3)
    # Which of the two makes an entry is settled by its key: a shard holds the keys of one of them.
    shards = [load_file(shard)["keys"] for shard in (tmp_path / "cache" / MOMENTS).iterdir()]
    makers = [set((words(keys)[:, 1] % np.uint64(2)).tolist()) for keys in shards]
    assert sorted(makers) == sorted({part} for part in set().union(*makers))
