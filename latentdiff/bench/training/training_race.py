"""`bench train`: the same fine-tuning by several, in samples a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from latentdiff.bench.race import Entrant, Outcome, race
from latentdiff.bench.report import Race
from latentdiff.bench.training.training_work import TrainingWork

PEER = "diffusers' example"
OURS, UNCACHED = "latentdiff", "latentdiff, no cache"


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A row: its name, its maker in a module, and the maker's settings."""

    name: str
    maker: str
    settings: tuple[tuple[str, Any], ...] = ()
    module: str = "latentdiff.bench.training.trainers"

    def entrant(self, work: TrainingWork, threads: int) -> Entrant:
        """With the work it is to do."""
        settings = {"name": self.name, "work": work.to_json(), **dict(self.settings)}
        return Entrant(
            name=self.name, maker=f"{self.module}:{self.maker}", settings=settings, threads=threads
        )


LEARNERS = (
    Learner(name=PEER, maker="peer"),
    Learner(name="the same, latents kept", maker="peer", settings=(("cached", True),)),
    Learner(name=OURS, maker="ours"),
    Learner(name=UNCACHED, maker="ours", settings=(("cached", False),)),
    Learner(
        name="latentdiff, Muon",
        maker="ours",
        settings=(("fields", {"optimizer": "muon", "muon_learning_rate": 1e-4}),),
    ),
)


def training_race(
    work: TrainingWork,
    *,
    rows: int,
    repeats: int,
    warmups: int,
    threads: int,
    learners: Sequence[Learner] = LEARNERS,
    say: Callable[[str], None] = lambda line: None,
) -> Race:
    """All learners on the same work. rows: pictures in the data, for the cache's price."""
    outcomes = race(
        [learner.entrant(work, threads) for learner in learners],
        repeats=repeats,
        warmups=warmups,
        say=say,
    )
    samples = work.steps * work.batch_size
    precision = "float32" if work.mixed_precision == "no" else "bfloat16 autocast"
    rates = {one.name: f"{samples / one.seconds.value:.1f}" for one in outcomes if not one.trouble}
    return Race(
        title=f"fine-tuning, {work.size} x {work.size}, batch {work.batch_size}",
        work=(
            f"{work.steps} updates, AdamW and averaged weights, {precision}, {threads} "
            f"thread{'' if threads == 1 else 's'}"
        ),
        outcomes=outcomes,
        base=PEER,
        extra={"samples/s": rates},
        notes=pay_back(outcomes, rows=rows, samples=samples),
    )


def pay_back(outcomes: Sequence[Outcome], *, rows: int, samples: int) -> list[str]:
    """When the cache has paid for itself: its price against what an epoch with it saves."""
    found = {one.name: one for one in outcomes if not one.trouble}
    if OURS not in found or UNCACHED not in found:
        return []
    opening = [float(found[name].turns[0].facts["opening"]) for name in (OURS, UNCACHED)]
    price = max(0.0, opening[0] - opening[1])
    lines = [f"the cache of {rows} pictures took {price:.1f} CPU-seconds, once"]
    for name in (PEER, UNCACHED):
        if name not in found:
            continue
        a, b = (found[one].cpu_seconds.value / samples for one in (name, OURS))
        saved = (a - b) * rows
        when = f"after {price / saved:.1f} epochs" if saved > 0 else "never"
        lines.append(f"against {name} it has paid for itself {when}")
    return lines
