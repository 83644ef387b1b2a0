"""Where results go: a file, a folder that stands, or a new one named with a slash at its end."""

from pathlib import Path

import pytest

from latentdiff.cli.main import run
from latentdiff.cli.outputs import Output
from latentdiff.errors import UserError

KINDS = (".png", ".jpg")


def test_a_slash_at_the_end_means_a_folder_whatever_its_name(tmp_path: Path) -> None:
    for written, folder in (("new/", True), ("v2.png/", True), ("v2.png", False), ("new", False)):
        assert Output.of(f"{tmp_path}/{written}").is_folder == folder
    assert Output.of(tmp_path).is_folder  # it stands there
    assert Output.of(None).is_folder and Output.of(None).path == Path()


def test_names_in_a_folder_are_fresh_and_a_named_file_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert Output.of(tmp_path).fresh("a", ".png") == tmp_path / "a-2.png"
    assert Output.of(tmp_path / "a.png").fresh("b", ".png") == tmp_path / "a.png"
    assert Output.of(f"{tmp_path}/new/").file("sheet.png") == tmp_path / "new" / "sheet.png"


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    Output.of(f"{tmp_path}/new/").check(KINDS)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("new", "a slash at the end for a new folder"),
        ("cat.tiff", "expected one of .png, .jpg"),
        ("file/", "file is a file, not a folder"),
        ("file/deep/cat.png", "file is a file, not a folder"),
    ],
)
def test_a_place_that_cannot_be_is_named(tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=said):
        Output.of(f"{tmp_path}/{written}").check(KINDS)


def test_a_command_with_one_result_puts_it_into_the_new_folder(tmp_path: Path) -> None:
    assert run(["scenes", "sheet", "--count", "1", "-o", f"{tmp_path}/new/"]) == 0
    assert (tmp_path / "new" / "sheet.png").is_file()


def test_a_run_folder_that_is_a_file_is_one_line_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentdiff.training.run import loop

    monkeypatch.delattr(loop, "run")  # were it reached, it would fail
    (tmp_path / "file").touch()
    for place in ("file", "file/deep"):
        command = ["train", "vae", "--preset", "tiny", "--run-dir", str(tmp_path / place)]
        assert run(command) == 2
        err = capsys.readouterr().err
        assert err.strip().endswith("file is a file, not a folder; choose another place")
        assert err.count("\n") == 1
