"""What has to work on an accelerator, each check as a user would meet it: `bench device`.

A check runs commands in processes of their own, so that one that crashes, hangs or eats the memory
is a line on the page and takes nothing with it. It gives a short text of what it found; what fails
raises.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentdiff import files
from latentdiff.training.launch import config_path

PROMPT = "a cat in the snow"
UPDATES = 4


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the checks run: the device's name, a folder for what they leave, captioned scenes in
    `data`, the model, and seconds that a command may take."""

    device: str
    folder: Path
    data: Path
    model: str = "snowglobe"
    patience: float = 240.0

    def run(self, *words: str, **environment: str) -> str:
        """What a command prints; RuntimeError, one line, when it fails or takes too long."""
        try:
            done = subprocess.run(
                [sys.executable, "-m", *words],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.patience,
                env={**os.environ, **environment},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no end after {self.patience:.0f} s: {words[1]}") from None
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines() or ["it ended without a word"]
            raise RuntimeError(lines[-1][:300])
        return done.stdout

    def train(self, name: str, *options: str, launch: str | None = None, **more: str) -> Path:
        """Train `UPDATES` updates of the full model; the run's folder."""
        run = self.folder / name
        script = "latentdiff.train_scripts.text_to_image"
        start = [script]
        if launch is not None:
            start = ["accelerate.commands.launch", "--config_file", str(config_path(launch))]
            start += ["--num_processes", "1", "-m", script]
        where = [] if launch else ["--device", self.device]
        limits = ["--steps", str(UPDATES), "--batch-size", "4", "--log-every", "1"]
        quick = ["--validate-every", "0", "--sheet-every", "0", "--sheet-steps", "2"]
        few = ["--validation-pictures", "2", "--validation-pairs", "4", "--no-tensorboard"]
        self.run(
            *start,
            *("--preset", "full", "--base", self.model, "--data", str(self.data)),
            *("--run-dir", str(run), *where, *limits, *quick, *few, *options),
            **more,
        )
        return run


Check = Callable[[Place], str]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """What a run's log says of a kind: train, validate, checkpoint."""
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == kind]


def losses(run: Path) -> list[float]:
    """The loss of each update."""
    return [float(entry["loss"]) for entry in events(run, "train")]


def finite(run: Path) -> str:
    """The losses, which must be finite and of the right number."""
    found = losses(run)
    if len(found) < UPDATES or not np.isfinite(found).all():
        raise RuntimeError(f"losses {found}")
    return f"losses {found[0]:.4f} … {found[-1]:.4f}"


def same_picture(place: Place) -> str:
    """A seed gives the picture of the CPU, up to rounding."""
    pictures = []
    for device in ("cpu", place.device):
        output = place.folder / f"{device}.png"
        place.run(
            *("latentdiff", "generate", PROMPT, "--model", place.model, "--seed", "0"),
            *("--device", device, "--dtype", "float32", "-o", str(output)),
        )
        from PIL import Image

        pictures.append(np.asarray(Image.open(output).convert("RGB"), np.float64))
    error = pictures[0] - pictures[1]
    mean = float((error**2).mean())
    psnr = float("inf") if mean == 0 else 10 * np.log10(255**2 / mean)
    if psnr < 40:
        raise RuntimeError(f"PSNR {psnr:.1f} dB, largest difference {np.abs(error).max():.0f}")
    return f"PSNR {psnr:.1f} dB, largest difference {np.abs(error).max():.0f} of 255 levels"


def bf16(place: Place) -> str:
    """Training under bfloat16 autocast."""
    return finite(place.train("bf16", "--mixed-precision", "bf16"))


def fp16(place: Place) -> str:
    """Training under float16 with its loss scale, which an overflow halves."""
    run = place.train("fp16", "--mixed-precision", "fp16")
    scale = events(run, "train")[-1]["loss_scale"]
    return f"{finite(run)}; the loss scale ends at {scale:g}"


def adamw8bit(place: Place) -> str:
    """AdamW with its moments in 8 bits."""
    return finite(place.train("adamw8bit", "--optimizer", "adamw8bit"))


def muon(place: Place) -> str:
    """Muon, whose Newton-Schulz steps run in bfloat16 on an accelerator."""
    return finite(place.train("muon", "--optimizer", "muon", "--muon-learning-rate", "1e-3"))


def gradient_checkpointing(place: Place) -> str:
    """Activations computed twice give the same losses."""
    plain = losses(place.train("plain"))
    again = losses(place.train("checkpointing", "--gradient-checkpointing"))
    off = float(np.abs(np.subtract(plain, again)).max())
    if off > 1e-4:
        raise RuntimeError(f"losses differ by {off:.2g}")
    return f"losses differ by {off:.2g} at most"


def fsdp2(place: Place) -> str:
    """The model dealt out over processes, here one."""
    return finite(place.train("fsdp2", launch="fsdp2"))


def exact_resume(place: Place) -> str:
    """Stopped half-way and gone on with, a run ends with the bits of one that was not."""
    whole = place.train("whole")
    place.train("halves", "--stop-at", str(UPDATES // 2))
    halves = place.train("halves", "--resume")
    name = f"checkpoints/step-{UPDATES:08d}/weights.safetensors"
    sums = [files.sha256_file(run / name) for run in (whole, halves)]
    if sums[0] != sums[1]:
        raise RuntimeError("the weights differ")
    return "bit-equal"


def compiled(place: Place) -> str:
    """`torch.compile` of the module."""
    return finite(place.train("compiled", "--compile", "default"))


def cuda_graphs(place: Place) -> str:
    """The update as CUDA graphs."""
    return finite(place.train("graphs", "--compile", "reduce-overhead"))


def memory_at_validation(place: Place) -> str:
    """Validation and a sheet come before the first update, so that a lack of memory shows there."""
    run = place.train("early")
    if [entry["step"] for entry in events(run, "validate")][:1] != [0]:
        raise RuntimeError("no validation before the first update")
    return "validated before the first update"


CHECKS: dict[str, Check] = {
    "the picture of the CPU": same_picture,
    "bfloat16 training": bf16,
    "float16 training, loss scale": fp16,
    "8-bit AdamW": adamw8bit,
    "Muon": muon,
    "gradient checkpointing": gradient_checkpointing,
    "FSDP2": fsdp2,
    "exact resume": exact_resume,
    "torch.compile": compiled,
    "CUDA graphs": cuda_graphs,
    "validation before step 1": memory_at_validation,
}
