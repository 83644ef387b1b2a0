"""The training loop's own settings; a task's config nests one of these as `train`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from latentdiff import files
from latentdiff.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast, how precisely, and where a run is kept."""

    HELP_GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "How long and how fast it learns": (
            *("max_minutes", "seed", "gradient_accumulation", "optimizer", "muon_learning_rate"),
            "muon_weight_decay",
            *("lr_schedule", "warmup_steps", "decay_fraction", "decay_shape", "weight_decay"),
            *("betas", "grad_clip", "ema_decay", "ema_every", "ema_device"),
        ),
        "Speed and memory": (
            *("device", "mixed_precision", "compile", "channels_last", "threads", "num_workers"),
            *("prefetch", "timeout_minutes"),
        ),
        "Validation and sample sheets": ("validate_every", "validate_at_start", "sheet_every"),
        "What is logged and kept": (
            *("log_every", "checkpoint_minutes", "keep_checkpoints", "tensorboard"),
        ),
        "Stopping, and going on": (
            *("stop_at", "resume", "init_from", "continue_from", "decay_from", "dry_run"),
        ),
    }

    run_dir: Path | None = None
    """Folder of the run; by default $LATENTDIFF_RUNS/<task name>, or runs/<task name>."""
    seed: int = 0
    """Seed of the run: every draw is addressed by (seed, purpose, position)."""

    batch_size: int = 32
    """Samples per optimizer step, over all processes and accumulated micro-batches."""
    gradient_accumulation: int = 1
    """Micro-batches per optimizer step."""
    steps: int | None = None
    """Optimizer steps; with --decay-from and --continue-from, counted from the branch."""
    max_minutes: float | None = None
    """Wall minutes of the run, summed over resumed sittings: reading data, filling the cache,
    compiling and validating count; importing the libraries before it does not, nor do the last
    validation, sheet and checkpoint after it."""

    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """AdamW, fused; or with its moments in 8 bits (needs the package bitsandbytes); or Muon for
    the matrices and convolutions, AdamW for the rest: many fewer samples, a dearer update."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    muon_learning_rate: float = 0.015
    """Peak learning rate of Muon's matrices; the others have learning_rate."""
    muon_weight_decay: float = 0.0
    """Decoupled weight decay of Muon's matrices; some 0.1 for a long training from nothing."""
    lr_schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """After the warm-up: stay, then decay to zero; a cosine to zero from there; or stay."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    decay_fraction: float = 0.15
    """Share of the run, at its end, over which wsd's learning rate falls to zero."""
    decay_shape: Literal["sqrt", "linear"] = "sqrt"
    """1 - sqrt(progress) or 1 - progress (Hägele et al. 2024, arXiv:2405.18392)."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on parameters of two or more dimensions only."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay rates of the first and second moment."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 means no clipping."""
    ema_decay: float = 0.999
    """Averaged weights' decay per step, warmed up as min(decay, (1 + n) / (10 + n)); 0: none."""
    ema_every: int = 1
    """Steps between updates of the averaged weights; the decay per step stays what it is."""
    ema_device: str = "auto"
    """Where the averaged weights lie: auto (where the module is; under FSDP, cpu), cpu, cuda:1 …"""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes the accelerator when there is one."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Autocast of the forward pass; auto is bf16 on a GPU that has it, and float32 elsewhere.
    Trained weights stay float32. fp16 needs CUDA, and scales its loss."""
    compile: Literal["", "default", "reduce-overhead", "max-autotune-no-cudagraphs"] = ""
    """torch.compile mode of the module; empty means not compiled."""
    channels_last: bool = False
    """NHWC memory layout for weights and 4-D float inputs."""
    threads: int = 0
    """CPU threads of torch in each process; 0 shares the cores when the launcher forced one."""
    num_workers: int = 0
    """Data-loader workers in each process; 0 prepares batches in the training process."""
    prefetch: int = 4
    """Batches each worker keeps ready."""
    timeout_minutes: float = 60.0
    """How long processes wait for one another; validation and saving keep the others waiting."""

    log_every: int = 20
    """Steps between log lines; on a GPU also between reads of the loss and the non-finite flag."""
    validate_every: int = 1000
    """Steps between validations; 0 validates at the end only."""
    validate_at_start: bool = True
    """Validate and draw before the first step: what comes later is compared with it, and a lack
    of memory shows now."""
    sheet_every: int = 1000
    """Steps between sample sheets; 0 draws one at the end only."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints; one is also written before the decay and at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, besides the one before the decay."""
    tensorboard: bool = True
    """Also write TensorBoard event files (needs the package tensorboard)."""

    stop_at: int | None = None
    """Save and stop at this step, as Ctrl-C would; --resume goes on as if it had not stopped."""
    resume: bool = False
    """Go on with the run in run_dir from its newest valid checkpoint."""
    init_from: Path | None = None
    """Start from these weights only: a checkpoint, a run folder, or an export."""
    continue_from: Path | None = None
    """Branch a new run off this checkpoint, optimizer included."""
    decay_from: Path | None = None
    """Branch a new run off this checkpoint and decay the learning rate from there over `steps`."""
    dry_run: bool = False
    """Print the resolved config, parameter counts and the learning-rate schedule, then stop."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the field."""
        if self.run_dir is not None:
            files.refuse_file_for_folder(self.run_dir)
        self._check_numbers()
        self._check_combinations()

    def _check_numbers(self) -> None:
        """Each number in its own range."""
        for name, low in (
            ("batch_size", 1),
            ("gradient_accumulation", 1),
            ("log_every", 1),
            ("keep_checkpoints", 1),
            ("ema_every", 1),
        ):
            _at_least(name, getattr(self, name), low)
        for name in ("warmup_steps", "threads", "num_workers", "validate_every", "sheet_every"):
            _at_least(name, getattr(self, name), 0)
        for name in ("weight_decay", "muon_weight_decay", "grad_clip", "checkpoint_minutes"):
            _at_least(name, getattr(self, name), 0)
        if self.num_workers:
            _at_least("prefetch", self.prefetch, 1)
        for name in ("learning_rate", "muon_learning_rate"):
            rate = getattr(self, name)
            if not (math.isfinite(rate) and rate > 0):
                raise UserError(f"{name} is {rate}, expected a finite number above 0")
        for name, value in (("decay_fraction", self.decay_fraction), ("ema_decay", self.ema_decay)):
            if not 0 <= value < 1:
                raise UserError(f"{name} is {value}, expected a number in [0, 1)")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas are {self.betas}, expected two numbers in [0, 1)")
        for name in ("steps", "stop_at"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("max_minutes", "timeout_minutes"):
            minutes = getattr(self, name)
            if minutes is not None and not minutes > 0:
                raise UserError(f"{name} is {minutes}, expected a number above 0")

    def _check_combinations(self) -> None:
        """What does not go together."""
        if self.lr_schedule == "cosine" and self.steps is None and self.max_minutes is not None:
            raise UserError(
                "lr_schedule cosine needs steps: it falls from the end of the warm-up on, so its "
                "length is known from the first step; give --steps, or take --lr-schedule wsd"
            )
        if self.lr_schedule != "wsd" and self.decay_from is not None:
            raise UserError("decay_from is a decay of wsd's; leave out lr_schedule")
        if self.batch_size % self.gradient_accumulation:
            raise UserError(
                f"batch_size {self.batch_size} is not a multiple of gradient_accumulation "
                f"{self.gradient_accumulation}"
            )
        if self.compile == "reduce-overhead" and self.gradient_accumulation > 1:
            raise UserError(
                "compile reduce-overhead replays CUDA graphs, which overwrite the gradients that "
                "gradient_accumulation keeps; use compile default, or gradient_accumulation 1"
            )
        starts = [
            name
            for name in ("init_from", "continue_from", "decay_from")
            if getattr(self, name) is not None
        ]
        if len(starts) > 1:
            raise UserError(f"{' and '.join(starts)} exclude each other: give one")
        if self.resume and starts:
            raise UserError(f"resume goes on with a run and {starts[0]} begins one: give one")


def _at_least(name: str, value: float, low: float) -> None:
    if not value >= low:
        raise UserError(f"{name} is {value}, expected at least {low}")
