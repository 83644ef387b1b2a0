"""`bench train --parts`: where the time of this project's own update goes, and what stands between
updates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from latentdiff.bench.race import Outcome, race
from latentdiff.bench.report import Race
from latentdiff.bench.training.trainers import Train, opened
from latentdiff.bench.training.training_race import Learner
from latentdiff.bench.training.training_work import TrainingWork

BATCH, PASSES = "batch from the cache", "forward, backward"
OPTIMIZER, AVERAGE = "norms, optimizer", "averaged weights"
STALL, WRITTEN, VALIDATION = "checkpoint, training waits", "checkpoint, in all", "validation"
PARTS = (BATCH, PASSES, OPTIMIZER, AVERAGE)
VALIDATE_EVERY, SAVE_MINUTES = 250, 5.0
"""As the preset `full` does it."""


def _learner(name: str, *, between: bool = False, **fields: Any) -> Learner:
    settings = (("fields", fields), ("between", between))
    return Learner(name=name, maker="measured", settings=settings, module=__name__)


LEARNERS = (
    _learner("AdamW", between=True),
    _learner("AdamW, not channels last", channels_last=False),
    _learner("Muon", optimizer="muon", muon_learning_rate=1e-4),
)


class Laps:
    """CPU-seconds of the calls that are wrapped, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call; what it takes is added up under this name."""

        def wrapped(*arguments: Any) -> Any:
            began = time.process_time()
            try:
                return call(*arguments)
            finally:
                took = time.process_time() - began
                self.seconds[name] = self.seconds.get(name, 0.0) + took

        return wrapped

    def stream(self, name: str, stream: Iterator[Any]) -> Iterator[Any]:
        """The same items; what each takes is added up."""
        following = self.timed(name, stream.__next__)
        while True:
            yield following()


class _Called:
    """An object whose call alone is another one."""

    def __init__(self, inner: Any, call: Callable[..., Any]) -> None:
        self._inner, self._call = inner, call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def measured(
    *, name: str, work: Mapping[str, Any], fields: Mapping[str, Any], between: bool
) -> Train:
    """The loop with a clock around its parts; a turn's facts are CPU-seconds an update.

    between: also those of a checkpoint and a validation, once.
    """
    asked = TrainingWork(**work)
    trainer, gate = opened(asked, name, fields=fields, validation=True)
    laps = Laps()
    stream: Any = laps.stream(BATCH, trainer.stream)
    guard: Any = _Called(trainer.guard, laps.timed(OPTIMIZER, trainer.guard))
    averaged: Any = trainer.averaged
    averaged.update = laps.timed(AVERAGE, averaged.update)
    trainer.stream, trainer.guard = stream, guard
    once: dict[str, float] = {}

    def train(number: int) -> Mapping[str, Any]:
        laps.seconds.clear()
        began = time.process_time()
        gate.let(asked.steps)
        whole = time.process_time() - began
        parts = {part: laps.seconds[part] for part in (BATCH, OPTIMIZER, AVERAGE)}
        parts[PASSES] = whole - sum(parts.values())
        facts = {part: seconds / asked.steps for part, seconds in parts.items()}
        if between and not once:  # in the first turn, which usually does not count
            once.update(_between(trainer))
        return {**facts, **once}

    return train


def _between(trainer: Any) -> dict[str, float]:
    """CPU-seconds of a checkpoint and of a validation."""
    import torch

    began, mine = time.process_time(), time.thread_time()
    trainer.save()
    stall = time.thread_time() - mine
    trainer.writer.wait()
    written = time.process_time() - began
    with trainer.averaged.ready() as module, torch.no_grad():
        trainer.evaluator.validate(module, trainer.step)  # the first one encodes its pictures, too
        began = time.process_time()
        trainer.evaluator.validate(module, trainer.step)
    return {STALL: stall, WRITTEN: written, VALIDATION: time.process_time() - began}


def parts(
    work: TrainingWork,
    *,
    repeats: int,
    warmups: int,
    threads: int,
    learners: Sequence[Learner] = LEARNERS,
    say: Callable[[str], None] = lambda line: None,
) -> Race:
    """The parts of an update for each learner, medians of the turns, in CPU-seconds."""
    outcomes = race(
        [learner.entrant(work, threads) for learner in learners],
        repeats=repeats,
        warmups=warmups,
        say=say,
    )
    fine = [one for one in outcomes if not one.trouble]
    return Race(
        title=f"the parts of an update, {work.size} x {work.size}, batch {work.batch_size}",
        work=f"a turn is {work.steps} updates; CPU-seconds an update and its share, medians",
        outcomes=outcomes,
        base="",
        extra={part: {one.name: _share(one, part) for one in fine} for part in PARTS},
        notes=[line for one in fine for line in _between_lines(one)],
    )


def _median(one: Outcome, part: str) -> float:
    return median(turn.facts[part] for turn in one.turns)


def _share(one: Outcome, part: str) -> str:
    whole = sum(_median(one, each) for each in PARTS)
    return f"{_median(one, part):.3g} ({100 * _median(one, part) / whole:.1f} %)"


def _between_lines(one: Outcome) -> list[str]:
    facts = one.turns[0].facts
    if VALIDATION not in facts:
        return []
    update = sum(_median(one, part) for part in PARTS)
    validation = 100 * facts[VALIDATION] / (VALIDATE_EVERY * update)
    stall = 100 * facts[STALL] / (SAVE_MINUTES * 60)
    return [
        f"a validation takes {facts[VALIDATION]:.2g} CPU-seconds, every {VALIDATE_EVERY} updates: "
        f"{validation:.1f} %",
        f"a checkpoint takes {facts[WRITTEN]:.2g} CPU-seconds, of which training waits for "
        f"{facts[STALL]:.2g}, every {SAVE_MINUTES:.0f} minutes: {stall:.2f} %",
    ]
