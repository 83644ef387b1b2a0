"""Which samples a step sees: positions are counted, so order needs no state but a number.

Step k of a run that has seen P samples takes positions P + k·B … P + (k + 1)·B - 1. Micro-batch m
of process r takes a contiguous piece of them, so the same samples meet the same step whatever the
number of processes, accumulated micro-batches or workers.
"""

from __future__ import annotations

from dataclasses import dataclass

from latentdiff.errors import UserError


@dataclass(frozen=True)
class Positions:
    """How the samples of a run are dealt to steps, micro-batches and processes."""

    begin_step: int
    begin_position: int
    batch_size: int
    micro_batches: int = 1
    processes: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        """Equal pieces only."""
        pieces = self.micro_batches * self.processes
        if self.batch_size % pieces:
            raise UserError(
                f"batch_size {self.batch_size} is not a multiple of gradient_accumulation "
                f"{self.micro_batches} x {self.processes} processes = {pieces}"
            )

    def of_step(self, step: int) -> range:
        """The positions that all processes together see in the update from `step`."""
        start = self.begin_position + (step - self.begin_step) * self.batch_size
        return range(start, start + self.batch_size)

    def micro_batch(self, step: int, micro: int) -> range:
        """This process's piece of micro-batch `micro` of that update."""
        size = self.batch_size // (self.micro_batches * self.processes)
        start = (micro * self.processes + self.rank) * size
        return self.of_step(step)[start : start + size]

    def in_share(self, position: int) -> int:
        """How many samples its process takes before the one at `position`, over all of the run."""
        step, within = divmod(position - self.begin_position, self.batch_size)
        micro, within = divmod(within, self.batch_size // self.micro_batches)
        size = self.batch_size // (self.micro_batches * self.processes)
        share = self.batch_size // self.processes
        before = self.begin_position // self.processes
        return before + step * share + micro * size + within % size
