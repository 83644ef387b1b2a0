"""Commands that only group others: what they list, what they run, what they refuse."""

import pytest

from latentdiff.cli import groups
from latentdiff.errors import UserError

COMMANDS: groups.Commands = {
    "twice": (lambda argv: 2 * len(argv), "count to twice"),
    "info": ("latentdiff.cli.model.info", "a module, loaded on use"),
}


def test_help_lists_every_command_on_standard_output(capsys):
    assert groups.run(["--help"], "latentdiff x", "thing", COMMANDS, more="Try it.") == 0
    out, err = capsys.readouterr()
    assert "usage: latentdiff x THING" in out and out.rstrip().endswith("Try it.")
    assert all(name in out and text in out for name, (_, text) in COMMANDS.items())
    assert err == ""


def test_no_command_is_a_mistake_told_on_standard_error(capsys):
    assert groups.run([], "latentdiff x", "thing", COMMANDS) == 2
    out, err = capsys.readouterr()
    assert out == "" and "twice" in err


def test_the_named_command_gets_the_rest_and_gives_the_exit_code(capsys):
    assert groups.run(["twice", "a", "b"], "latentdiff x", "thing", COMMANDS) == 4
    assert groups.run(["info", "--accelerate-config", "cpu2"], "x", "thing", COMMANDS) == 0
    assert capsys.readouterr().out.strip().endswith("cpu2.yaml")


def test_an_unknown_command_is_named_with_the_nearest():
    with pytest.raises(UserError, match="unknown x thing 'twcie'; did you mean 'twice'"):
        groups.run(["twcie"], "latentdiff x", "thing", COMMANDS)
