"""One run in progress: the update, and what happens between updates."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

import latentdiff
from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.checkpoints.state import TrainState
from latentdiff.checkpoints.store import Checkpoint
from latentdiff.progress import note
from latentdiff.training.logging import Progress, RunLog
from latentdiff.training.optimizers.guarded_step import GuardedStep, NonFiniteError, describe
from latentdiff.training.optimizers.learning_rate import Decay, learning_rate
from latentdiff.training.positions import Positions
from latentdiff.training.record.evaluator import Evaluator
from latentdiff.training.record.run_folder import RunFolder, config_hash
from latentdiff.training.run import non_finite, snapshot
from latentdiff.training.run.batches import seed_modules, to_device
from latentdiff.training.run.checkpoint_writer import CheckpointWriter, Written, room_for
from latentdiff.training.run.clock import RunClock
from latentdiff.training.run.live_parts import Learner
from latentdiff.training.run.memory import fits
from latentdiff.training.run.processes import Processes
from latentdiff.training.run.signals import until_stopped
from latentdiff.training.task import Batch, Task
from latentdiff.training.train_config import TrainConfig

Stopped = Literal["finished", "time", "interrupted", "paused"]
_GO, _SAVE, _INTERRUPTED, _TIME, _PAUSED = 0, 1, 2, 3, 4
_GRACE = 10.0
"""Seconds in which an update may still end once a stop signal has come; a machine may give 30."""
_LESS_TO_UPDATE = (
    "lower --batch-size, or raise --gradient-accumulation; where the task has it, "
    "--gradient-checkpointing saves memory too"
)
_LESS_TO_VALIDATE = (
    "smaller pictures or a smaller model take less; later validations would take as much as the "
    "first"
)
_STOPS: dict[int, Stopped] = {_INTERRUPTED: "interrupted", _TIME: "time", _PAUSED: "paused"}


class Trainer:
    """Holds the live parts; `fit` runs them to the end."""

    def __init__(
        self,
        *,
        task: Task,
        config: TrainConfig,
        settings: object,
        processes: Processes,
        folder: RunFolder,
        learner: Learner,
        positions: Positions,
        stream: Iterator[Batch],
        clock: RunClock,
        log: RunLog | None,
        progress: Progress,
    ) -> None:
        self.task, self.config, self.settings = task, config, settings
        self.processes, self.folder = processes, folder
        self.model, self.averaged = learner.model, learner.averaged
        self.optimizer, self.loss_scale = learner.optimizer, learner.loss_scale
        self.positions, self.stream, self.clock = positions, stream, clock
        self.log, self.progress = log, progress
        self.evaluator = Evaluator(task, folder, log, progress)
        self.guard = GuardedStep(
            self.optimizer, task.module, grad_clip=config.grad_clip, loss_scale=self.loss_scale
        )
        self.writer = CheckpointWriter()
        self._said_no_room = False
        self.step = positions.begin_step
        self.saved: tuple[int, Path] | None = None
        self._saved_step: int | None = None
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
        with self.writer:
            return self._fit(interrupted)

    def _fit(self, interrupted: Iterator[int]) -> Stopped:
        on_cpu = self.processes.device.type == "cpu"
        control_every = 1 if on_cpu or self.processes.count == 1 else self.config.log_every
        stopped: Stopped = "finished"
        if self.config.validate_at_start and self.step == self.clock.begin_step:
            self._evaluate(validate=True, sheet=True)
        while self.clock.end is None or self.step < self.clock.end:
            if self.step % control_every == 0:
                order = self._control(next(interrupted))
                if order == _SAVE:
                    self.save()
                elif order != _GO:
                    stopped = _STOPS[order]
                    break
                if self.clock.end is not None and self.step >= self.clock.end:
                    break
            self._keep_before_decay()
            with fits(f"{self.task.name}: an update of {self._update_size}", _LESS_TO_UPDATE):
                if not self._update():
                    continue  # to the signal
            if on_cpu:
                self._stop_if_not_finite()
            self._between()
        self._stop_if_not_finite()
        if stopped not in ("interrupted", "paused"):
            self._evaluate(validate=True, sheet=True)
            if next(interrupted):  # it was cut short: --resume does it again
                stopped = "interrupted"
        self.save(last=True)
        return stopped

    def _update(self) -> bool:
        """One optimizer step; False when a stop signal cut it short, and then nothing changed."""
        of = "" if self.clock.end is None else f" of {self.clock.end}"
        note(f"{self.task.name}: step {self.step + 1}{of}")
        step, config = self.step, self.config
        seed_modules(config.seed, step, self.processes.rank)
        loss_sum = torch.zeros((), device=self.processes.device)
        if self.processes.count > 1:
            self._accumulate(loss_sum)
            torch.distributed.all_reduce(loss_sum)
            loss_sum /= self.processes.count
        else:
            before = [(buffer, buffer.clone()) for buffer in self.task.module.buffers()]
            if not until_stopped(lambda: self._accumulate(loss_sum), grace=_GRACE):
                for buffer, value in before:
                    buffer.copy_(value)
                return False
        norm = self.guard(loss_sum, step, learning_rate(config, step, self.clock.decay))
        self.step += 1
        self.averaged.update(self.step)
        self._add({"loss": loss_sum, "grad_norm": norm}, config.gradient_accumulation)
        self._summed += config.gradient_accumulation
        self.clock.tick(self.step)
        return True

    def _accumulate(self, loss_sum: Tensor) -> None:
        """Gradients of all micro-batches; their mean loss is added to `loss_sum`."""
        config = self.config
        if config.compile == "reduce-overhead":
            mark_step_begin: Callable[[], None] = torch.compiler.cudagraph_mark_step_begin
            mark_step_begin()
        for micro in range(config.gradient_accumulation):
            batch = to_device(
                next(self.stream), self.processes.device, channels_last=config.channels_last
            )
            last = micro == config.gradient_accumulation - 1
            with self.processes.accumulating(self.model, last=last):
                with self.processes.autocast():
                    outputs = self.model(batch)
                loss = outputs["loss"]
                assert loss.ndim == 0, f"the loss has shape {tuple(loss.shape)}, expected a scalar"
                scale = 1.0 if self.loss_scale is None else self.loss_scale.scale
                (loss * scale / config.gradient_accumulation).backward()
            loss_sum += loss.detach().float() / config.gradient_accumulation
            self._add({k: v for k, v in outputs.items() if k != "loss"})

    def _add(self, values: dict[str, Tensor], times: int = 1) -> None:
        """Sum metrics on the device; the host reads them when it logs."""
        for key, value in values.items():
            value = value.detach().float() * times
            self._sums[key] = self._sums[key] + value if key in self._sums else value.clone()

    def _between(self) -> None:
        config, step = self.config, self.step
        self._note(self.writer.poll())
        if step % config.log_every == 0:
            self._report()
        validate = bool(config.validate_every) and step % config.validate_every == 0
        sheet = bool(config.sheet_every) and step % config.sheet_every == 0
        if (validate or sheet) and step != self.clock.end:
            self._evaluate(validate=validate, sheet=sheet)

    def _report(self) -> None:
        """Read what was summed (the one wait for the device), log it, show it."""
        self._stop_if_not_finite()
        names = list(self._sums)
        sums = torch.stack([self._sums[name] for name in names]).tolist()
        self.metrics = {n: s / self._summed for n, s in zip(names, sums, strict=True)}
        self._sums, self._summed = {}, 0
        rate = self.clock.steps_per_second(self.step) * self.config.batch_size
        if self.log is not None:
            extra = {
                "learning_rate": learning_rate(self.config, self.step - 1, self.clock.decay),
                "samples_per_second": rate,
                "positions": float(self.positions_seen),
                "minutes": self.clock.minutes(),
            }
            if self.loss_scale is not None:
                extra["loss_scale"] = float(self.loss_scale.scale)
                extra["skipped_updates"] = float(self.loss_scale.skipped)
            self.log.scalars("train", self.step, {**self.metrics, **extra})
        left = self.clock.seconds_left(self.step)
        note = f"loss {self.metrics['loss']:.4g}"
        self.progress.update(self.step, self.clock.end, rate, left, note)

    @property
    def _update_size(self) -> str:
        at_once = len(self.positions.micro_batch(self.step, 0))
        return f"{at_once} sample{'' if at_once == 1 else 's'} at once"

    @property
    def positions_seen(self) -> int:
        """Samples seen by the run, over all processes: the next sample's position."""
        return self.positions.of_step(self.step).start

    def _stop_if_not_finite(self) -> None:
        """All processes see the same trouble at the same place: what is asked for was reduced."""
        trouble = self.guard.trouble()
        if trouble is None:
            return
        message = describe(trouble, self.positions.of_step(trouble.step))
        weights = snapshot.gathered(snapshot.weights(self.task.module))
        if self.processes.is_main:
            message += non_finite.keep(
                self.folder.non_finite / f"step-{trouble.step:08d}",
                non_finite.Stop(
                    task=self.task,
                    module=non_finite.plain(self.task.module, self.averaged, weights),
                    weights=weights,
                    settings=self.settings,
                    seed=self.config.seed,
                    positions=self.positions,
                    trouble=trouble,
                    processes=self.processes,
                    loss_scale=1.0 if self.loss_scale is None else float(self.loss_scale.scale),
                ),
            )
        if self.log is not None:
            self.log.write("non_finite", trouble.step, message=message)
            self.evaluator.report(trouble.step)
        if self.processes.count > 1:  # a process that ends makes the launcher end the others
            self.processes.accelerator.wait_for_everyone()
        raise NonFiniteError(message)

    def _control(self, signal_number: int) -> int:
        """The main process decides whether to go on and when to decay; all follow."""
        decay = self.clock.decay
        order = _GO
        if self.processes.is_main:
            if signal_number:
                order = _INTERRUPTED
            elif self.config.stop_at is not None and self.step >= self.config.stop_at:
                order = _PAUSED
            elif self.clock.out_of_time():
                order = _TIME
            else:
                if self._save_due():
                    order = _SAVE
                if self.clock.plan(self.step):
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

    def _save_due(self) -> bool:
        every = self.config.checkpoint_minutes * 60
        return bool(every) and time.monotonic() - self._last_save >= every

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
        if self.step and self.config.decay_from is None and self.config.lr_schedule == "wsd":
            self.save(keep=True)

    def _evaluate(self, *, validate: bool, sheet: bool) -> None:
        """Validate and draw with the averaged weights, on the main process alone."""
        self._stop_if_not_finite()
        if not self.processes.is_main:
            return
        began = time.monotonic()
        memory = fits(f"{self.task.name}: validating at step {self.step}", _LESS_TO_VALIDATE)
        with self.averaged.ready() as module, torch.no_grad(), memory:
            until_stopped(lambda: self._validate_and_draw(module, validate=validate, sheet=sheet))
        self.evaluator.report(self.step)
        self.clock.closing_seconds = max(self.clock.closing_seconds, time.monotonic() - began)

    def _validate_and_draw(self, module: nn.Module, *, validate: bool, sheet: bool) -> None:
        if validate:
            note(f"{self.task.name}: validating at step {self.step}")
            self.validation = self.evaluator.validate(module, self.step)
        if sheet:
            note(f"{self.task.name}: drawing the samples of step {self.step}")
            self.evaluator.draw(module, self.step)

    def save(self, *, keep: bool = False, last: bool = False) -> None:
        """Publish a checkpoint and the averaged weights' export, then rotate old checkpoints.

        All processes come here together: they compare their weights, and under FSDP give theirs.
        The main one writes beside the training where it can; the last checkpoint is waited for.
        """
        self._note(self.writer.wait())
        self._last_save = time.monotonic()
        if self._saved_step == self.step and not keep:
            return
        self._saved_step = self.step
        self._stop_if_not_finite()
        note(f"{self.task.name}: saving a checkpoint at step {self.step}")
        self.processes.check_same_weights(self.task.module)
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
            config_hash=config_hash(self.settings),
            keep=keep,
            versions=versions(),
            metrics={k: v for k, v in self.metrics.items() if abs(v) < float("inf")},
        )
        checkpoint = snapshot.capture(
            state, self.task.module, self.averaged, self.optimizer, self.loss_scale
        )
        if not self.processes.is_main:
            return
        exporter = getattr(self.task, "exporter", None)
        if not last and exporter is not None and self._has_room(snapshot.size(checkpoint)):
            module, ema = self.averaged.copied()
            copied, export = snapshot.detached(checkpoint, ema), exporter(module)
            self.writer.begin(lambda: self._publish(copied, export))
            return
        with self.averaged.ready() as module:
            self._note(self._publish(checkpoint, lambda folder: self.task.export(module, folder)))

    def _has_room(self, size: int) -> bool:
        """Whether a copy of the state fits into memory; where it does not, that is said once."""
        if room_for(size):
            return True
        if not self._said_no_room:
            self._said_no_room = True
            self.progress.say(
                f"{self.task.name}: no memory for a copy of {size / 1e9:.1f} GB: training waits "
                "while checkpoints are written"
            )
        return False

    def _publish(self, checkpoint: Checkpoint, export: Callable[[Path], object]) -> Written:
        """Write the checkpoint and the averaged weights' export; perhaps in another thread."""
        path = checkpoints.save(self.folder.checkpoints, checkpoint)
        checkpoints.rotate(self.folder.checkpoints, self.config.keep_checkpoints)
        with files.publish_folder(self.folder.export) as folder:
            export(folder)
        state = checkpoint.state
        return Written(step=state.step, path=path, minutes=state.minutes)

    def _note(self, written: Written | None) -> None:
        """Remember what stands now, and put it into the log."""
        if written is None:
            return
        self.saved = (written.step, written.path)
        self._last_save = time.monotonic()
        if self.log is not None:
            name, minutes = written.path.name, written.minutes
            self.log.write("checkpoint", written.step, path=name, minutes=minutes)


def versions() -> dict[str, str]:
    """What made a checkpoint."""
    return {
        "latentdiff": latentdiff.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
