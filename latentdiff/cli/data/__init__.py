"""`latentdiff data check | cache`: pictures before training, and what is made of them."""

from __future__ import annotations

from latentdiff.cli import groups

# Name -> (module with `main(argv) -> int`, one line of help). Loaded on use only.
SUBCOMMANDS = {
    "check": (
        "latentdiff.cli.data.data_check",
        "look at every picture and caption: DIR",
    ),
    "cache": (
        "latentdiff.cli.data.data_cache",
        "encode before training; list, check, clean",
    ),
}


def main(argv: list[str]) -> int:
    """Find the subcommand and run it; returns the exit code."""
    return groups.run(argv, "latentdiff data", "command", SUBCOMMANDS)
