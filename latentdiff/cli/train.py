"""`latentdiff train vae | clip | text-to-image | judge`: a training run in this process."""

from __future__ import annotations

import importlib

from latentdiff.errors import unknown_name

TASKS = {
    "vae": ("latentdiff.train_scripts.vae", "the autoencoder: pictures to latents and back"),
    "clip": ("latentdiff.train_scripts.clip", "text and vision towers, and the tokenizer"),
    "text-to-image": ("latentdiff.train_scripts.text_to_image", "the U-Net that draws"),
    "judge": ("latentdiff.train_scripts.judge", "the classifier that measures pictures"),
}


def usage() -> str:
    """The text of `latentdiff train --help`."""
    rows = "\n".join(f"  {name:<14} {text}" for name, (_, text) in TASKS.items())
    return (
        f"usage: latentdiff train TASK [OPTIONS]\n\ntasks:\n{rows}\n\n"
        "`latentdiff train TASK --help` lists a task's options.\n"
        "Try: latentdiff train vae --preset tiny --run-dir runs/try"
    )


def main(argv: list[str]) -> int:
    """Find the task and run its script; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    name = argv[0]
    if name not in TASKS:
        raise unknown_name("training task", name, TASKS)
    script = importlib.import_module(TASKS[name][0])
    return int(script.main(argv[1:], prog=f"latentdiff train {name}"))
