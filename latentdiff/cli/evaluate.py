"""`latentdiff evaluate alignment | autoencoder | blind | classes`: measure a model."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from latentdiff.errors import unknown_name

MEASUREMENTS: dict[str, tuple[str, str]] = {
    "alignment": ("latentdiff.cli.evaluate_alignment", "do pictures show what prompts ask for?"),
    "autoencoder": ("latentdiff.cli.evaluate_autoencoder", "PSNR of reconstructed scenes"),
    "classes": ("latentdiff.cli.evaluate_classes", "does a classifier recognise each class?"),
    "blind": ("latentdiff.cli.evaluate_blind", "numbered pictures for a person to name"),
}


def usage() -> str:
    """The text of `latentdiff evaluate --help`."""
    rows = "\n".join(f"  {name:<12} {text}" for name, (_, text) in MEASUREMENTS.items())
    return (
        "usage: latentdiff evaluate MEASUREMENT [OPTIONS]\n\n"
        f"measurements:\n{rows}\n\n"
        "`latentdiff evaluate MEASUREMENT --help` lists its options."
    )


def main(argv: Sequence[str]) -> int:
    """Run one measurement; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] not in MEASUREMENTS:
        raise unknown_name("measurement", argv[0], MEASUREMENTS)
    return int(importlib.import_module(MEASUREMENTS[argv[0]][0]).main(list(argv[1:])))
