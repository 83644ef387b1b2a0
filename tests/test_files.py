"""Nothing half-written is ever seen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentdiff import files
from latentdiff.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_ctrl_c_inside_a_write_leaves_no_litter(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.publish_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_published_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with files.publish_folder(tmp_path / "out") as folder:
            (folder / text).write_text(text)
    assert sorted(os.listdir(tmp_path / "out")) == ["manifest.json", "two"]
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "a").write_bytes(b"jello"), "differs"),
        (lambda f: (f / "a").write_bytes(b"hell"), "bytes"),
        (lambda f: (f / "a").unlink(), "missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "manifest.json").write_text("[]"), "cannot be read"),
        (lambda f: (f / "manifest.json").unlink(), "missing"),
    ],
)
def test_a_manifest_finds_every_kind_of_harm(tmp_path: Path, harm, said: str) -> None:
    with files.publish_folder(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"hello")
    assert files.verify_manifest(tmp_path / "out") == []
    harm(tmp_path / "out")
    assert said in files.verify_manifest(tmp_path / "out")[0]


def test_a_second_writer_is_refused_by_process_number(tmp_path: Path) -> None:
    with files.FolderLock(tmp_path), pytest.raises(UserError, match=str(os.getpid())):
        files.FolderLock(tmp_path).__enter__()
    with files.FolderLock(tmp_path):
        pass


def test_the_lock_of_a_killed_process_hinders_nobody(tmp_path: Path) -> None:
    code = (
        "import os, sys; from latentdiff.files import FolderLock\n"
        "FolderLock(sys.argv[1]).__enter__(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / ".lock").exists()
    with files.FolderLock(tmp_path):
        pass


def test_what_an_interrupted_write_left_can_be_swept(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a-1-2").write_text("x")
    (tmp_path / ".tmp-b-1-2").mkdir()
    (tmp_path / "kept").write_text("x")
    files.remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["kept"]


def test_an_unwritable_place_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot make the folder"):
        files.write_text(tmp_path / "file" / "below.txt", "x")
    with pytest.raises(UserError, match="is a folder"):
        files.write_text(tmp_path, "x")


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert os.listdir(tmp_path) == []
