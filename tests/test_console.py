"""Whatever the terminal is, and whatever is printed to it, printing stops nothing."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentdiff import console


def printed(text: str, encoding: str) -> str:
    raw = io.BytesIO()
    stream = console.Console(raw, encoding=encoding, errors=console.ERRORS)
    print(text, file=stream, flush=True)
    return raw.getvalue().decode(encoding)


def command(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "latentdiff", *words],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_characters_that_the_encoding_lacks_are_written_in_others() -> None:
    text = "█ 0 … 3 × √ε → \N{CAT FACE} caf\xe9 \udcff"
    assert printed(text, "ascii") == "# 0 ... 3 x sqrteps -> \\U0001f431 caf\\xe9 \\xff\n"
    assert printed(text, "cp1252") == "# 0 … 3 × sqrteps -> \\U0001f431 caf\xe9 \\xff\n"
    assert printed(text, "utf-8") == text.replace("\udcff", "\\xff") + "\n"


def test_controls_and_direction_marks_are_written_out() -> None:
    assert console.visible("a\x1b[2J\x07b\x9b") == "a\\x1b[2J\\x07b\\x9b"
    assert console.visible("photo\u202egnp.exe\u2066\u200f\u2028x") == (
        "photo\\u202egnp.exe\\u2066\\u200f\\u2028x"
    )
    kept = "\r1 of 2\tשלום \U0001f469\u200d\U0001f680\n"
    assert console.visible(kept) == kept
    assert printed("\x1b[31mred\x1b[0m", "utf-8") == "\\x1b[31mred\\x1b[0m\n"


class Screen(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_colours_pass_on_a_terminal_and_other_sequences_do_not() -> None:
    screen = Screen()
    stream = console.Console(screen, encoding="utf-8", errors=console.ERRORS)
    print("\x1b[1;31mred\x1b[0m \x1b[2J \x1b]0;title\x07", file=stream, flush=True)
    assert screen.getvalue() == b"\x1b[1;31mred\x1b[0m \\x1b[2J \\x1b]0;title\\x07\n"


def test_a_reader_that_goes_away_stops_nothing() -> None:
    reader, writer = os.pipe()
    with console.Console(os.fdopen(writer, "wb"), encoding="utf-8", errors=console.ERRORS) as out:
        print("one", file=out, flush=True)
        os.close(reader)
        for _ in range(3):
            print("two", file=out, flush=True)
        assert isinstance(out.lost, BrokenPipeError)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_the_output_is_said_at_the_end(monkeypatch, capsys) -> None:
    with Path("/dev/full").open("wb") as full:
        out = console.Console(full, encoding="utf-8", errors=console.ERRORS)
        monkeypatch.setattr(sys, "stdout", out)
        print("one")
        assert console.finish(0) == 2
        assert out.lost is not None and out.lost.errno == errno.ENOSPC
        assert console.finish(1) == 1
    assert "standard output could not be written (No space" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_console_shows_the_commands(encoding: str) -> None:
    process = command("--help", PYTHONIOENCODING=encoding)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert "usage: latentdiff COMMAND" in out


def test_a_command_goes_on_when_its_reader_is_gone(tmp_path: Path) -> None:
    process = command("scenes", "export", str(tmp_path / "x"), "--count", "3")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert list((tmp_path / "x").rglob("*.png"))


def test_home_is_understood_after_an_equals_sign(monkeypatch, tmp_path: Path) -> None:
    from latentdiff.cli import main

    seen: list[str] = []

    class Command:
        @staticmethod
        def main(argv: list[str]) -> int:
            seen.extend(argv)
            return 0

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(main.importlib, "import_module", lambda name: Command)
    assert main.run(["generate", "--out=~/a.png", "--size=~3", "a~/b", "--where=~"]) == 0
    assert seen == [f"--out={tmp_path}/a.png", "--size=~3", "a~/b", f"--where={tmp_path}"]


def test_bytes_in_an_argument_that_are_no_text_are_one_line(monkeypatch, capsys) -> None:
    from latentdiff.cli import main

    class Command:
        @staticmethod
        def main(argv: list[str]) -> int:
            return len(argv[0].encode("utf-8"))

    monkeypatch.setattr(main.importlib, "import_module", lambda name: Command)
    assert main.run(["generate", "a cat \udcff"]) == 2
    assert "holds bytes that are no text" in capsys.readouterr().err
