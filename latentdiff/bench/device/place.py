"""Where the checks of a device run: a folder, a small model and its pictures, runs of training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from latentdiff.bench.device.apart import Apart, NeedsCudaError
from latentdiff.training.launch import config_path

SCRIPT = "latentdiff.train_scripts.text_to_image"
UPDATES = 4


@dataclass(frozen=True, kw_only=True)
class Place:
    """device: its name. folder: for what the checks leave. model: the one that is drawn with,
    besides a small random one that `prepare` makes for training."""

    device: str
    folder: Path
    model: str = "snowglobe"
    apart: Apart = field(default_factory=Apart)

    @property
    def small(self) -> Path:
        """The small model."""
        return self.folder / "small"

    @property
    def data(self) -> Path:
        """Captioned pictures of its size."""
        return self.folder / "scenes"

    def prepare(self) -> None:
        """Write the small model and its pictures."""
        where = {"model": str(self.small), "data": str(self.data)}
        self.apart.call("latentdiff.bench.device.small_model:write", where)

    def need_cuda(self, what: str) -> None:
        """NeedsCudaError elsewhere."""
        if not self.device.startswith("cuda"):
            raise NeedsCudaError(what)

    def inside(self, name: str, **settings: Any) -> Any:
        """What a function of `inside` gives, in a process of its own."""
        return self.apart.call(f"latentdiff.bench.device.inside:{name}", settings)

    def train(
        self,
        name: str,
        *options: str,
        start: Sequence[str] = (SCRIPT,),
        patience: float | None = None,
    ) -> Path:
        """Train the small model for `UPDATES` updates; the run's folder. start: what is run.
        patience: seconds it may take, where that is more than is usual."""
        run = self.folder / name
        where = ("--device", self.device) if start[0] == SCRIPT else ()
        limits = ("--steps", str(UPDATES), "--batch-size", "4", "--log-every", "1")
        quick = ("--validate-every", "0", "--sheet-every", "0", "--sheet-steps", "2")
        few = ("--validation-pictures", "1", "--validation-pairs", "2", "--no-tensorboard")
        apart = self.apart if patience is None else replace(self.apart, patience=patience)
        apart.run(
            [
                *start,
                *("--preset", "full", "--base", str(self.small), "--data", str(self.data)),
                *("--run-dir", str(run), "--learning-rate", "1e-3", "--warmup-steps", "1"),
                *("--no-validate-at-start", *where, *limits, *quick, *few, *options),
            ]
        )
        return run

    def plain(self) -> Path:
        """The run in float32 that others are held against; it is made once."""
        run = self.folder / "plain"
        return run if run.exists() else self.train("plain", "--mixed-precision", "no")

    def launch(self, name: str, config: str, changes: Mapping[str, str]) -> Path:
        """Train by `accelerate launch` in one process; changes: of lines of the shipped config."""
        text = config_path(config).read_text("utf-8")
        for old, new in changes.items():
            assert old in text, f"{config} does not say {old}"
            text = text.replace(old, new)
        written = self.folder / f"{config}.yaml"
        written.write_text(text, "utf-8")
        launcher = ("accelerate.commands.launch", "--config_file", str(written))
        start = (*launcher, "--num_processes", "1", "-m", SCRIPT)
        return self.train(name, "--mixed-precision", "no", "--no-channels-last", start=start)


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """What a run's log says of a kind: train, validate, checkpoint."""
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == kind]


def losses(run: Path) -> list[float]:
    """The loss of each update; RuntimeError when some are missing or not finite."""
    found = [float(entry["loss"]) for entry in events(run, "train")]
    if len(found) < UPDATES or not np.isfinite(found).all():
        raise RuntimeError(f"losses {found}, expected {UPDATES} finite ones")
    return found


def near(place: Place, run: Path, most: float) -> str:
    """The run's losses, which may be off by so much from those of the plain run."""
    found = losses(run)
    off = float(np.abs(np.subtract(found, losses(place.plain()))).max())
    text = f"losses {found[0]:.4f} … {found[-1]:.4f}, off by {off:.1g} from float32's"
    if not off <= most:
        raise RuntimeError(f"{text}; at most {most:g} was expected")
    return text
