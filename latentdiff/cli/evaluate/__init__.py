"""`latentdiff evaluate MEASUREMENT`: measure a model, or pictures."""

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
    "text": (
        "latentdiff.cli.evaluate.evaluate_text",
        "does the text tower tell subjects apart?",
    ),
    "captions": (
        "latentdiff.cli.evaluate.evaluate_captions",
        "does the network listen to its captions, and at which timesteps?",
    ),
    "images": (
        "latentdiff.cli.evaluate.evaluate_images",
        "how far pictures are from others: FD, KID, CMMD, precision, recall",
    ),
    "sweep": (
        "latentdiff.cli.evaluate.evaluate_sweep",
        "quality over a grid of steps, eta, guidance, scheduler …",
    ),
    "compare": (
        "latentdiff.cli.evaluate.evaluate_compare",
        "two models on the same prompts and seeds",
    ),
    "likelihood": (
        "latentdiff.cli.evaluate.evaluate_likelihood",
        "the variational bound, term by term",
    ),
    "reconstruction": (
        "latentdiff.cli.evaluate.evaluate_reconstruction",
        "to the noise and back: error over steps",
    ),
    "trials": (
        "latentdiff.cli.evaluate.evaluate_trials",
        "small trainings side by side: target, schedule, optimizer …",
    ),
    "inversion": (
        "latentdiff.cli.evaluate.evaluate_inversion",
        "do pictures come back from their noise?",
    ),
    "blind": ("latentdiff.cli.evaluate.evaluate_blind", "numbered pictures for a person to name"),
}


def main(argv: Sequence[str]) -> int:
    """Run one measurement; returns the exit code."""
    return groups.run(argv, "latentdiff evaluate", "measurement", MEASUREMENTS)
