"""One run in progress: the update, and what happens between updates."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

import latentdiff
from latentdiff import files, seeding
from latentdiff.checkpoints import folder as checkpoints
from latentdiff.checkpoints.state import TrainState
from latentdiff.training import snapshot
from latentdiff.training.clock import RunClock
from latentdiff.training.config import TrainConfig
from latentdiff.training.ema import AveragedWeights
from latentdiff.training.logging import Progress, RunLog
from latentdiff.training.optim import GuardedStep, NonFiniteError, describe
from latentdiff.training.processes import Processes
from latentdiff.training.run_folder import RunFolder
from latentdiff.training.sampler import Positions, to_device
from latentdiff.training.schedule import Decay, learning_rate_scale
from latentdiff.training.task import Batch, Task

Stopped = Literal["finished", "time", "interrupted"]
_GO, _INTERRUPTED, _TIME = 0, 1, 2


class Trainer:
    """Holds the live parts; `fit` runs them to the end."""

    def __init__(
        self,
        *,
        task: Task,
        config: TrainConfig,
        config_hash: str,
        processes: Processes,
        folder: RunFolder,
        model: nn.Module,
        averaged: AveragedWeights,
        optimizer: torch.optim.AdamW,
        positions: Positions,
        stream: Iterator[Batch],
        clock: RunClock,
        log: RunLog | None,
        progress: Progress,
    ) -> None:
        self.task, self.config, self.config_hash = task, config, config_hash
        self.processes, self.folder = processes, folder
        self.model, self.averaged, self.optimizer = model, averaged, optimizer
        self.positions, self.stream, self.clock = positions, stream, clock
        self.log, self.progress = log, progress
        self.guard = GuardedStep(optimizer, task.module, grad_clip=config.grad_clip)
        self.step = positions.begin_step
        self.saved: tuple[int, Path] | None = None
        self.metrics: dict[str, float] = {}
        self.validation: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self._last_save = time.monotonic()
        self._kept = self.clock.decay is not None and self.step >= self.clock.decay.start

    def fit(self, interrupted: Iterator[int]) -> Stopped:
        """Update until the end, the time limit or a signal; then validate, save and export.

        `interrupted` yields the number of a caught signal, or 0.
        """
        on_cpu = self.processes.device.type == "cpu"
        control_every = 1 if on_cpu or self.processes.count == 1 else self.config.log_every
        stopped: Stopped = "finished"
        while self.clock.end is None or self.step < self.clock.end:
            if self.step % control_every == 0:
                order = self._control(next(interrupted))
                if order != _GO:
                    stopped = "interrupted" if order == _INTERRUPTED else "time"
                    break
                if self.clock.end is not None and self.step >= self.clock.end:
                    break
            self._keep_before_decay()
            self._update()
            if on_cpu:
                self._stop_if_not_finite()
            self._between()
        self._stop_if_not_finite()
        if stopped != "interrupted":
            self._look(validate=True, sheet=True)
        self._save()
        return stopped

    def _update(self) -> None:
        step, config = self.step, self.config
        # Whatever a module draws itself (dropout) is addressed by the step too.
        torch.manual_seed(
            seeding.key(config.seed, "module", step, self.processes.rank) & (2**63 - 1)
        )
        if config.compile == "reduce-overhead":
            mark_step_begin: Callable[[], None] = torch.compiler.cudagraph_mark_step_begin
            mark_step_begin()
        loss_sum = torch.zeros((), device=self.processes.device)
        for micro in range(config.gradient_accumulation):
            batch = to_device(
                next(self.stream), self.processes.device, channels_last=config.channels_last
            )
            last = micro == config.gradient_accumulation - 1
            with nullcontext() if last else self.processes.accelerator.no_sync(self.model):
                with self.processes.autocast():
                    outputs = self.model(batch)
                loss = outputs["loss"]
                assert loss.ndim == 0, f"the loss has shape {tuple(loss.shape)}, expected a scalar"
                (loss / config.gradient_accumulation).backward()
            loss_sum += loss.detach().float() / config.gradient_accumulation
            self._add({k: v for k, v in outputs.items() if k != "loss"})
        if self.processes.count > 1:
            torch.distributed.all_reduce(loss_sum)
            loss_sum /= self.processes.count
        rate = config.learning_rate * learning_rate_scale(
            step, config.warmup_steps, self.clock.decay, config.decay_shape
        )
        norm = self.guard(loss_sum, step, rate)
        self.step += 1
        self.averaged.update(self.step)
        self._add({"loss": loss_sum, "grad_norm": norm}, config.gradient_accumulation)
        self._summed += config.gradient_accumulation
        self.clock.tick(self.step)

    def _add(self, values: dict[str, Tensor], times: int = 1) -> None:
        """Sum metrics on the device; the host reads them when it logs."""
        for key, value in values.items():
            value = value.detach().float() * times
            self._sums[key] = self._sums[key] + value if key in self._sums else value.clone()

    def _between(self) -> None:
        config, step = self.config, self.step
        if step % config.log_every == 0:
            self._report()
        due = time.monotonic() - self._last_save >= config.checkpoint_minutes * 60
        if self.processes.is_main and config.checkpoint_minutes and due:
            self._save()
        validate = bool(config.validate_every) and step % config.validate_every == 0
        sheet = bool(config.sheet_every) and step % config.sheet_every == 0
        if (validate or sheet) and step != self.clock.end:
            self._look(validate=validate, sheet=sheet)

    def _report(self) -> None:
        """Read what was summed (the one wait for the device), log it, show it."""
        self._stop_if_not_finite()
        names = list(self._sums)
        sums = torch.stack([self._sums[name] for name in names]).tolist()
        self.metrics = {n: s / self._summed for n, s in zip(names, sums, strict=True)}
        self._sums, self._summed = {}, 0
        rate = self.clock.steps_per_second(self.step) * self.config.batch_size
        scale = learning_rate_scale(
            self.step - 1, self.config.warmup_steps, self.clock.decay, self.config.decay_shape
        )
        if self.log is not None:
            extra = {
                "learning_rate": self.config.learning_rate * scale,
                "samples_per_second": rate,
                "positions": float(self.positions_seen),
                "minutes": self.clock.minutes(),
            }
            self.log.scalars("train", self.step, {**self.metrics, **extra})
        left = self.clock.seconds_left(self.step)
        note = f"loss {self.metrics['loss']:.4g}"
        self.progress.update(self.step, self.clock.end, rate, left, note)

    @property
    def positions_seen(self) -> int:
        """Samples seen by the run, over all processes: the next sample's position."""
        return self.positions.of_step(self.step).start

    def _stop_if_not_finite(self) -> None:
        trouble = self.guard.trouble()
        if trouble is None:
            return
        message = describe(trouble, self.positions.of_step(trouble.step))
        if self.log is not None:
            self.log.write("non_finite", trouble.step, message=message)
        raise NonFiniteError(message)

    def _control(self, signal_number: int) -> int:
        """The main process decides whether to go on and when to decay; all follow."""
        decay = self.clock.decay
        order = _GO
        if self.processes.is_main:
            if signal_number:
                order = _INTERRUPTED
            elif self.clock.out_of_time():
                order = _TIME
            elif self.clock.plan(self.step):
                decay = self.clock.decay
        if self.processes.count > 1:
            bounds = (decay.start, decay.end) if decay else (-1, -1)
            message = torch.tensor([order, *bounds], device=self.processes.device)
            torch.distributed.broadcast(message, src=0)
            order, start, end = message.tolist()
            decay = Decay(start, end) if start >= 0 else None
        if decay is not None and decay != self.clock.decay:
            self.clock.fix(decay)
        return int(order)

    def _keep_before_decay(self) -> None:
        """The state from which training can go on is written when the decay begins, and kept."""
        decay = self.clock.decay
        if self._kept or decay is None or self.step < decay.start:
            return
        self._kept = True
        if self.log is not None:
            self.log.write("decay", self.step, decay_start=decay.start, decay_end=decay.end)
        self.progress.say(
            f"{self.task.name}: decay of the learning rate, steps {decay.start} to {decay.end}"
        )
        if self.step and self.config.decay_from is None:
            self._stop_if_not_finite()
            self._save(keep=True)

    def _look(self, *, validate: bool, sheet: bool) -> None:
        """Validate and draw with the averaged weights, on the main process alone."""
        if not self.processes.is_main:
            return
        began = time.monotonic()
        self._stop_if_not_finite()
        module = self.averaged.ready()
        with torch.no_grad():
            if validate:
                self.validation = dict(self.task.validate(module, self.step))
            picture = self.task.sheet(module, self.step) if sheet else None
        if validate and self.validation:
            if self.log is not None:
                self.log.scalars("validate", self.step, self.validation)
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in self.validation.items())
            self.progress.say(f"{self.task.name}: step {self.step}: {numbers}")
        if picture is not None:
            with files.atomic_path(self.folder.sheets / f"step-{self.step:08d}.png") as path:
                picture.save(path)
        self.clock.closing_seconds = max(self.clock.closing_seconds, time.monotonic() - began)

    def _save(self, *, keep: bool = False) -> None:
        """Publish a checkpoint and the averaged weights' export, then rotate old checkpoints."""
        if not self.processes.is_main or (self.saved and self.saved[0] == self.step and not keep):
            return
        self._stop_if_not_finite()
        decay = self.clock.decay
        state = TrainState(
            task=self.task.name,
            step=self.step,
            positions=self.positions_seen,
            minutes=self.clock.minutes(),
            begin_step=self.clock.begin_step,
            decay_start=decay.start if decay else None,
            decay_end=decay.end if decay else None,
            seed=self.config.seed,
            config_hash=self.config_hash,
            keep=keep,
            versions=versions(),
            metrics={k: v for k, v in self.metrics.items() if abs(v) < float("inf")},
        )
        checkpoint = snapshot.capture(state, self.task.module, self.averaged, self.optimizer)
        path = checkpoints.save(self.folder.checkpoints, checkpoint)
        self.saved = (self.step, path)
        checkpoints.rotate(self.folder.checkpoints, self.config.keep_checkpoints)
        with files.publish_folder(self.folder.export) as export:
            self.task.export(self.averaged.ready(), export)
        if self.log is not None:
            self.log.write("checkpoint", self.step, path=path.name, minutes=state.minutes)
        self._last_save = time.monotonic()


def versions() -> dict[str, str]:
    """What made a checkpoint."""
    return {
        "latentdiff": latentdiff.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
