"""A command that only groups others: finds the one that is named and runs it, or lists them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from latentdiff.errors import unknown_name

Commands = Mapping[str, tuple[str | Callable[[list[str]], int], str]]
"""Name -> (a module with `main(argv) -> int`, loaded on use only, or such a function; its help)."""


def usage(group: str, noun: str, commands: Commands, more: str = "") -> str:
    """The text of `GROUP --help`: a line a command, then `more`."""
    width = max(map(len, commands))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in commands.items())
    return (
        f"usage: {group} {noun.upper()} [OPTIONS]\n\n{noun}s:\n{rows}\n\n"
        f"`{group} {noun.upper()} --help` lists its options." + (f"\n{more}" if more else "")
    )


def run(
    argv: Sequence[str],
    group: str,
    noun: str,
    commands: Commands,
    *,
    more: str = "",
    **keywords: Any,
) -> int:
    """Run the command that argv[0] names, with the rest; the exit code, 2 where none is named.

    group: what stands before it, such as "latentdiff data". noun: what its commands are.
    keywords: handed to its main. Raises UserError for an unknown name.
    """
    if not argv or argv[0] in ("-h", "--help", "--help-all"):
        print(usage(group, noun, commands, more), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    name, *rest = argv
    if name not in commands:
        raise unknown_name(f"{group.removeprefix('latentdiff ')} {noun}", name, commands)
    target = commands[name][0]
    main = importlib.import_module(target).main if isinstance(target, str) else target
    return int(main(rest, **keywords))
