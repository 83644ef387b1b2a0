"""`latentdiff train vae | clip | text-to-image | judge`: a training run in this process."""

from __future__ import annotations

from latentdiff.cli import groups

TASKS = {
    "vae": ("latentdiff.train_scripts.vae", "the autoencoder: pictures to latents and back"),
    "clip": ("latentdiff.train_scripts.clip", "text and vision towers, and the tokenizer"),
    "text": ("latentdiff.train_scripts.text", "the text tower, towards the expected latents"),
    "text-to-image": ("latentdiff.train_scripts.text_to_image", "the U-Net that draws"),
    "judge": ("latentdiff.train_scripts.judge", "the classifier that measures pictures"),
}


def main(argv: list[str]) -> int:
    """Find the task and run its script; returns the exit code."""
    task = argv[0] if argv else ""
    return groups.run(
        argv,
        "latentdiff train",
        "task",
        TASKS,
        more="Try: latentdiff train vae --preset tiny --run-dir runs/try",
        prog=f"latentdiff train {task}",
    )
