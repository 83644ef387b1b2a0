"""`latentdiff data check | cache`: pictures before training, and what is made of them."""

from __future__ import annotations

import importlib
import sys

from latentdiff.errors import unknown_name

# Name -> (module with `main(argv) -> int`, one line of help). Loaded on use only.
SUBCOMMANDS = {
    "check": ("latentdiff.cli.data_check", "look at every picture and caption: DIR [--html FILE]"),
    "cache": ("latentdiff.cli.data_cache", "encode pictures before training; list, check, clean"),
}


def usage() -> str:
    """The text of `latentdiff data --help`."""
    rows = "\n".join(f"  {name:<8}{text}" for name, (_, text) in SUBCOMMANDS.items())
    return (
        f"usage: latentdiff data COMMAND [OPTIONS]\n\ncommands:\n{rows}\n\n"
        "`latentdiff data COMMAND --help` lists a command's options."
    )


def main(argv: list[str]) -> int:
    """Find the subcommand and run it; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    name = argv[0]
    if name not in SUBCOMMANDS:
        raise unknown_name("data command", name, SUBCOMMANDS)
    return int(importlib.import_module(SUBCOMMANDS[name][0]).main(argv[1:]))
