"""Every command's --help: all options of its parser, in words that people read, and no others."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import pytest
import tyro

from latentdiff import config, option_help
from latentdiff.cli.main import COMMANDS, run

WIDTH = 88
FLAG = re.compile(r"--[a-z][a-z0-9-]*")


def shown(*words: str) -> str:
    """What a command line prints on standard output."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        assert run(words) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[str, type[Any]]]:
    """Command -> its whole help and the config that it is of, for every command there is."""
    found: dict[str, tuple[str, type[Any]]] = {}
    parsed: list[type[Any]] = []
    parse = config.parse
    render = option_help.render

    def seen(cls: type[Any], *arguments: Any, **keywords: Any) -> str:
        parsed.append(cls)
        return render(cls, *arguments, **keywords)

    def visit(words: tuple[str, ...]) -> None:
        parsed.clear()
        text = shown(*words, "--help-all")
        if parsed:
            found[" ".join(words)] = (text, parsed[0])
            return
        for name in re.findall(r"^  ([a-z-]+)  ", text, flags=re.M):
            visit((*words, name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(WIDTH))
        patch.setattr(option_help, "render", seen)
        for command in COMMANDS:
            visit((command,))
    assert config.parse is parse
    return found


def test_all_commands_are_visited(helps: dict[str, Any]) -> None:
    assert len(helps) >= 30
    assert {name.split()[0] for name in helps} == set(COMMANDS)


def test_no_help_speaks_of_none_or_is_wider_than_the_terminal(
    helps: dict[str, Any],
) -> None:
    for command, (text, _) in helps.items():
        assert not re.search(r"\bNone\b", text), command
        assert max(map(len, text.splitlines())) <= WIDTH, command


def test_every_option_of_the_parser_is_listed_once_with_words_and_no_other(
    helps: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # one column of boxes, no name wrapped
    for command, (text, cls) in helps.items():
        theirs = io.StringIO()
        with contextlib.redirect_stdout(theirs), pytest.raises(SystemExit):
            tyro.cli(cls, args=["--help"], config=(tyro.conf.OmitArgPrefixes,))
        column = re.findall(r"^ {1,3}(-.*?)(?:  |$)", theirs.getvalue(), flags=re.M)
        parser = {flag for line in column for flag in FLAG.findall(line)} - {"--help"}
        options = option_help.options_of(cls)
        listed = [name for option in options for name in option.names if name.startswith("--")]
        assert len(listed) == len(set(listed)), command
        assert set(listed) == parser, command
        assert all(option.text for option in options), command
        assert all(re.search(rf"{name}\b", text) for name in listed), command
