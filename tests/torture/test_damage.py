"""Truncated files and flipped bits: each is found, and the checkpoint before is used."""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from children import done, fast_folder
from run_task import run_task
from tiny_runs import TRAIN, bits, build_parts, text_to_image_task

from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.checkpoints.state import TrainState
from latentdiff.checkpoints.store import Checkpoint
from latentdiff.errors import UserError

pytestmark = pytest.mark.torture

FLIPS = 1000
NAMES = (
    checkpoints.WEIGHTS,
    checkpoints.EMA,
    checkpoints.OPTIMIZER,
    checkpoints.STATE,
    files.MANIFEST,
)
OLD, NEW = (checkpoints.folder_name(step) for step in (17, 20))


@pytest.fixture(scope="module")
def place():
    with fast_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def sit(place) -> Callable[[Path, bool], str]:
    """Train in a child; what it said."""
    torch.set_num_threads(1)
    (place / "parts").mkdir()
    task = text_to_image_task(build_parts(place / "parts"))

    def train(folder: Path, resume: bool) -> str:
        config = dataclasses.replace(TRAIN, run_dir=folder, resume=resume)
        return done(lambda: run_task(task, config), folder.with_suffix(".txt"))

    return train


@pytest.fixture(scope="module")
def run(place, sit) -> Path:
    """A finished run with checkpoints at steps 17 and 20."""
    sit(place / "run", False)
    assert [p.name for _, p in checkpoints.stored(place / "run/checkpoints")] == [OLD, NEW]
    return place / "run"


@contextmanager
def changed(file: Path, data: bytes) -> Iterator[None]:
    """The file with other content, for a while."""
    before = file.read_bytes()
    file.write_bytes(data)
    try:
        yield
    finally:
        file.write_bytes(before)


def flipped(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def cuts(size: int, draw: random.Random) -> list[int]:
    """Ten lengths shorter than `size`."""
    fixed = {0, 1, 7, 8, size // 4, size // 2, size - 9, size - 2, size - 1}
    while len(fixed) < 10:
        fixed.add(draw.randrange(size))
    return sorted(fixed)


def assert_found(root: Path, what: str, old: str = OLD, new: str = NEW) -> None:
    found = checkpoints.newest_whole(root)
    assert found.path == root / old, what
    assert len(found.skipped) == 1 and found.skipped[0].startswith(f"{new}: "), what
    with pytest.raises(UserError):
        checkpoints.load(root / new)


@pytest.mark.parametrize("name", NAMES)
def test_ten_truncations_of_every_file_are_found(run, name):
    file = run / "checkpoints" / NEW / name
    data = file.read_bytes()
    for size in cuts(len(data), random.Random(name)):
        with changed(file, data[:size]):
            assert_found(run / "checkpoints", f"{name} cut to {size} of {len(data)}")


def test_a_thousand_flipped_bits_are_found(run):
    draw = random.Random(0)
    for number in range(FLIPS):
        name = NAMES[number % len(NAMES)]
        file = run / "checkpoints" / NEW / name
        data = file.read_bytes()
        bit = draw.randrange(len(data) * 8)
        with changed(file, flipped(data, bit)):
            assert_found(run / "checkpoints", f"{name}, bit {bit}")


def test_a_missing_file_and_one_of_another_step_are_found(run):
    for name in NAMES:
        file = run / "checkpoints" / NEW / name
        with changed(file, (run / "checkpoints" / OLD / name).read_bytes()):
            assert_found(run / "checkpoints", f"{name} of another step")
            file.unlink()
            assert_found(run / "checkpoints", f"{name} missing")


@pytest.mark.parametrize("name", NAMES)
def test_a_resume_over_damage_says_so_and_ends_with_the_same_bits(run, sit, place, name):
    copy = place / f"resumed-{name.partition('.')[0]}"
    shutil.copytree(run, copy)
    file = copy / "checkpoints" / NEW / name
    data = file.read_bytes()
    file.write_bytes(flipped(data, random.Random(name).randrange(len(data) * 8)))
    words = sit(copy, True)
    assert f"passed over a damaged checkpoint, {NEW}: " in words
    assert f"resuming from {copy / 'checkpoints' / OLD}" in words
    assert (copy / "checkpoints" / f"damaged-{NEW}").is_dir()
    assert bits(copy, 20) == bits(run, 20)


def test_every_single_bit_of_a_small_checkpoint_counts(place):
    root = place / "small"
    for step in (1, 2):
        values = torch.arange(4.0) + step
        state = TrainState(task="t", step=step, positions=step * 4, minutes=1.5)
        checkpoints.save(root, Checkpoint(state, {"w": values}, {"w": values}, {"m.w": values}))
    old, new = (checkpoints.folder_name(step) for step in (1, 2))
    for name in NAMES:
        data = (root / new / name).read_bytes()
        for bit in range(len(data) * 8):
            with changed(root / new / name, flipped(data, bit)):
                assert_found(root, f"{name}, bit {bit}", old, new)


FULL = """
import re, subprocess, sys
from pathlib import Path
import torch
from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.checkpoints.store import Checkpoint
from latentdiff.checkpoints.state import TrainState
from latentdiff.errors import UserError

disk, preflight = sys.argv[1], sys.argv[2] == "asked"
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=True)
root = Path(disk, "checkpoints")
values = torch.arange(150_000.0)

def save(step):
    state = TrainState(task="t", step=step, positions=step, minutes=0.0)
    return checkpoints.save(root, Checkpoint(state, {"w": values}, {"w": values}, {"m": values}))

save(1)
real = files._free
if not preflight:
    files._free = lambda folder: None if not list(root.glob(".tmp-*")) else real(folder)
try:
    save(2)
except UserError as error:
    message = str(error)
print(message)
assert [p.name for p in root.iterdir()] == ["step-00000001"]
checkpoints.load(root / "step-00000001")
if preflight:
    missing = int(re.search(r"([\\d,]+) bytes are missing", message)[1].replace(",", ""))
    remount = lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
    remount(3 * 2**20 + missing - 40_000)
    try:
        save(2)
    except UserError as error:
        print("still:", error)
    else:
        raise AssertionError("so many bytes were not missing")
    remount(3 * 2**20 + missing)
    checkpoints.load(save(2))
"""


@pytest.mark.parametrize("preflight", ["asked", "not asked"])
def test_a_really_full_disk_names_the_bytes_that_are_missing(tmp_path, preflight):
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*namespace, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs unshare and user namespaces")
    ended = subprocess.run(
        [*namespace, sys.executable, "-c", FULL, str(tmp_path), preflight],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "the disk is full: " in ended.stdout
