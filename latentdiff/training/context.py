"""What a task is told of its run: who takes part, where they compute, where they may write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from latentdiff.data.cache.build import Team
from latentdiff.progress import Progress
from latentdiff.training.positions import Positions


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A run's processes, device, folder and voice, settled before its task is built.

    folder: RUN; the main process holds its lock. team: all processes, for work that is shared out.
    positions: which samples this process sees at which step. kept: the folder of a stopped step
    that is being replayed, if that is what the task is built for.
    """

    folder: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    team: Team = field(default_factory=Team)
    positions: Positions = field(
        default_factory=lambda: Positions(begin_step=0, begin_position=0, batch_size=1)
    )
    kept: Path | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.team.rank == 0

    def say(self, text: str) -> None:
        """Print a line; only the main process does."""
        if self.is_main:
            print(text, flush=True)

    def progress(self, what: str) -> Callable[[int, int], None]:
        """`progress(done, total)` of something that may take long; only the main process shows."""
        if self.is_main:
            return Progress(what, patience=3.0)
        return lambda done, total: None
