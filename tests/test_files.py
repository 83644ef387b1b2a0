"""Nothing half-written is ever seen."""

import errno
import os
import signal
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


def cut(file: Path, count: int) -> None:
    file.write_bytes(file.read_bytes()[:-count])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "a").write_bytes(b"jello"), "differs"),
        (lambda f: (f / "a").write_bytes(b"hell"), "bytes"),
        (lambda f: (f / "a").unlink(), "missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "manifest.json").write_text("[]"), "cannot be read"),
        (lambda f: (f / "manifest.json").unlink(), "missing"),
        (lambda f: cut(f / "manifest.json", 1), "not as it was written"),
    ],
)
def test_a_manifest_finds_every_kind_of_harm(tmp_path: Path, harm, said: str) -> None:
    with files.publish_folder(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"hello")
    assert files.verify_manifest(tmp_path / "out") == []
    harm(tmp_path / "out")
    assert said in files.verify_manifest(tmp_path / "out")[0]


def test_a_manifest_must_list_what_is_needed(tmp_path: Path) -> None:
    with files.publish_folder(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"hello")
    assert files.verify_manifest(tmp_path / "out", needed=["a"]) == []
    assert files.verify_manifest(tmp_path / "out", needed=["a", "b"]) == [
        "manifest.json does not list b"
    ]


def test_a_file_that_cannot_be_read_is_a_problem_with_a_name(tmp_path: Path, monkeypatch) -> None:
    with files.publish_folder(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"hello")

    def broken(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "sha256_file", broken)
    assert files.verify_manifest(tmp_path / "out") == ["a cannot be read (Input/output error)"]


def test_a_folder_that_is_replaced_is_never_missing(tmp_path: Path, monkeypatch) -> None:
    with files.publish_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("one")
    seen = []
    for name in ("rename", "replace", "fsync", "rmdir"):
        real = getattr(os, name)

        def watched(*arguments, real=real, **keywords):
            seen.append((tmp_path / "out" / "a").exists())
            return real(*arguments, **keywords)

        monkeypatch.setattr(os, name, watched)
    with files.publish_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("two")
    assert len(seen) > 3 and all(seen)
    assert (tmp_path / "out" / "a").read_text() == "two"


def test_two_writers_of_one_file_have_two_temporaries(tmp_path: Path) -> None:
    long = "é" * 100 + ".png"
    for name in ("a.png", "b", "c.tar.gz", long):
        target = tmp_path / name
        with files.atomic_path(target) as one, files.atomic_path(target) as two:
            assert one != two and one.suffix == two.suffix == target.suffix
            one.write_text("1")
            two.write_text("2")
        assert target.read_text() == "1"  # the outer one was published last


def test_a_full_disk_that_only_a_library_saw_is_told_the_same_way(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    for publish in (files.publish_folder, files.atomic_path):
        with pytest.raises(UserError, match="the disk is full"), publish(tmp_path / "out"):
            raise SafetensorError(words)
    with pytest.raises(SafetensorError), files.publish_folder(tmp_path / "out"):
        raise SafetensorError("invalid header")
    assert os.listdir(tmp_path) == []


def test_all_of_a_folder_is_synced_before_it_is_seen(tmp_path: Path, monkeypatch) -> None:
    synced, real = [], os.fsync

    def watched(descriptor: int) -> None:
        if not (tmp_path / "out").exists():
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with files.publish_folder(tmp_path / "out") as folder:
        (folder / "below").mkdir()
        (folder / "below" / "by a library").write_text("x")
    assert {"below", "by a library"} <= set(synced)
    assert synced[-1].startswith(".tmp-out-")  # the folder itself comes last


def test_a_new_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileExistsError), files.new_file(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


def test_what_a_failed_write_left_in_its_buffer_reaches_no_other_file(
    tmp_path: Path, monkeypatch
) -> None:
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"), files.new_file(tmp_path / "a") as file:
        file.write(b"lost")
    monkeypatch.setattr(os, "write", real)
    with files.new_file(tmp_path / "b") as other:  # takes the same descriptor number
        file.flush()
        del file
        other.write(b"mine")
    assert (tmp_path / "b").read_bytes() == b"mine"


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


def test_a_child_that_outlives_a_killed_process_does_not_hold_its_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from latentdiff.files import FolderLock\n"
        "FolderLock(sys.argv[1]).__enter__()\n"
        "child = os.fork()\n"
        "if child == 0: os.close(1); os.close(2); time.sleep(60)\n"
        "print(child, flush=True); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    child = int(subprocess.run(command, check=False, capture_output=True).stdout)
    try:
        with files.FolderLock(tmp_path):
            os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)


def test_what_an_interrupted_replacement_moved_aside_is_put_back(tmp_path: Path) -> None:
    (tmp_path / ".old-a").mkdir()
    (tmp_path / ".old-b").mkdir()
    (tmp_path / ".old-b" / "stale").write_text("x")
    (tmp_path / "b").mkdir()
    files.remove_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert os.listdir(tmp_path / "b") == []


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


def test_a_full_disk_inside_a_new_folder_is_told_with_the_folders_own_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the disk is full") as refused:  # noqa: SIM117
        with files.publish_folder(tmp_path / "out") as folder:
            with files.atomic_path(folder / "weights.bin"):
                raise OSError(errno.ENOSPC, "No space left on device")
    assert str(tmp_path / "out" / "weights.bin") in str(refused.value)
    assert ".tmp-" not in str(refused.value)
    assert os.listdir(tmp_path) == []


def test_a_temporary_is_abandoned_once_its_process_is_dead(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from latentdiff import files\n"
        "with files.atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.bin")], check=False)
    (left,) = tmp_path.iterdir()
    assert files.abandoned(left)
    own = left.with_name(left.name.replace(left.name.split("-")[-2], str(os.getpid())))
    assert not files.abandoned(own)
    assert not files.abandoned(tmp_path / ".tmp-a-1-2")
    assert not files.abandoned(tmp_path / "a.bin")
