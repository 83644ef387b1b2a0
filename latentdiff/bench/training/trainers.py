"""Who trains in `bench train`: this project's own loop, and the peer's.

Each maker opens the model and the data and gives a function that makes `work.steps` further updates
of one run that goes on from turn to turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentdiff.bench.training.training_work import TrainingWork

if TYPE_CHECKING:
    from latentdiff.training.run.trainer import Trainer
    from latentdiff.training.tasks.text_to_image import TextToImageConfig

Train = Callable[[int], Mapping[str, Any]]
_OPEN = ExitStack()
"""Holds what stays open as long as the process."""


class Gate(Iterator[int]):
    """Lets a loop through for some updates at a time; the loop lives in a thread of its own.

    `Trainer.fit` asks before each update whether it is to stop: the gate answers when it may go on.
    """

    def __init__(self) -> None:
        self._may_go, self._has_come = threading.Semaphore(0), threading.Semaphore(0)
        self._left = 0
        self._error: BaseException | None = None

    def __next__(self) -> int:
        if self._left == 0:
            self._has_come.release()
            self._may_go.acquire()
        self._left -= 1
        return 0

    def start(self, loop: Callable[[Gate], object]) -> None:
        """Run the loop up to its first update."""

        def run() -> None:
            try:
                loop(self)
            except BaseException as error:
                self._error = error
            self._has_come.release()

        threading.Thread(target=run, daemon=True).start()
        self._wait()

    def let(self, updates: int) -> None:
        """Let so many updates through, and wait for the last one's end."""
        self._left = updates
        self._may_go.release()
        self._wait()

    def _wait(self) -> None:
        self._has_come.acquire()
        if self._error is not None:
            raise RuntimeError(f"{type(self._error).__name__}: {self._error}") from self._error


def our_config(
    work: TrainingWork, name: str, *, cached: bool = True, fields: Mapping[str, Any] | None = None
) -> TextToImageConfig:
    """The `full` preset with the work's numbers, validating and saving at the end only.

    fields: further ones of the loop's settings.
    """
    from dataclasses import replace

    from latentdiff.training.tasks.text_to_image import PRESETS

    full = PRESETS["full"]
    place = Path(work.folder)
    return replace(
        full,
        base=work.model,
        weighting="simple",
        cache=place / "cache" if cached else None,
        pictures=replace(full.pictures, data=work.data, validation_share=0.02),
        captions=replace(full.captions, caption_dropout=0.0),
        validation_pictures=1,
        train=replace(
            full.train,
            **{
                "run_dir": place / name.replace(" ", "-").replace(",", ""),
                "batch_size": work.batch_size,
                "steps": 1_000_000,
                "lr_schedule": "constant",
                "learning_rate": work.learning_rate,
                "warmup_steps": work.warmup_steps,
                "betas": work.betas,
                "weight_decay": work.weight_decay,
                "grad_clip": work.grad_clip,
                "ema_decay": work.ema_decay,
                "device": work.device,
                "mixed_precision": work.mixed_precision,
                "validate_at_start": False,
                "validate_every": 0,
                "sheet_every": 0,
                "checkpoint_minutes": 0.0,
                "log_every": 1,
                "tensorboard": False,
                **(fields or {}),
            },
        ),
    )


def opened(
    work: TrainingWork,
    name: str,
    *,
    cached: bool = True,
    validation: bool = False,
    fields: Mapping[str, Any] | None = None,
) -> tuple[Trainer, Gate]:
    """This project's loop before its first update, as long as the process lasts.

    validation: with as many pictures as by default, for whoever times that.
    """
    from dataclasses import replace

    from latentdiff.training.run.loop import trainer_of
    from latentdiff.training.tasks.text_to_image import PRESETS, TextToImageTask

    config = our_config(work, name, cached=cached, fields=fields)
    if validation:
        config = replace(config, validation_pictures=PRESETS["full"].validation_pictures)
    trainer: Trainer = _OPEN.enter_context(
        trainer_of(
            lambda context: TextToImageTask(config, context),
            config.train,
            name="text-to-image",
            settings=config,
        )
    )
    gate = Gate()
    gate.start(trainer.fit)
    return trainer, gate


def ours(
    *,
    name: str,
    work: Mapping[str, Any],
    cached: bool = True,
    fields: Mapping[str, Any] | None = None,
) -> Train:
    """The loop of `latentdiff train text-to-image`."""
    asked = TrainingWork(**work)
    began = time.process_time()
    trainer, gate = opened(asked, name, cached=cached, fields=fields)
    opening = time.process_time() - began

    def train(number: int) -> Mapping[str, Any]:
        gate.let(asked.steps)
        return {"loss": trainer.metrics["loss"], "opening": opening}

    return train


def peer(*, name: str, work: Mapping[str, Any], cached: bool = False) -> Train:
    """The steps of diffusers' example."""
    from latentdiff.bench.training.peer_training import PeerTraining

    asked = TrainingWork(**work)
    loop = PeerTraining(asked, cached=cached)
    if cached:  # the first pass is not what is timed
        loop.fill()

    def train(number: int) -> Mapping[str, Any]:
        for _ in range(asked.steps):
            loss = loop.step()
        return {"loss": loss}

    return train
