"""`latentdiff evaluate alignment | autoencoder | blind | classes`: measure a model."""

from __future__ import annotations

from collections.abc import Sequence

from latentdiff.cli import groups

MEASUREMENTS: dict[str, tuple[str, str]] = {
    "alignment": (
        "latentdiff.cli.evaluate.evaluate_alignment",
        "do pictures show their prompts?",
    ),
    "autoencoder": ("latentdiff.cli.evaluate.evaluate_autoencoder", "PSNR of reconstructed scenes"),
    "classes": (
        "latentdiff.cli.evaluate.evaluate_classes",
        "does a classifier see each class?",
    ),
    "blind": ("latentdiff.cli.evaluate.evaluate_blind", "numbered pictures for a person to name"),
}


def main(argv: Sequence[str]) -> int:
    """Run one measurement; returns the exit code."""
    return groups.run(argv, "latentdiff evaluate", "measurement", MEASUREMENTS)
