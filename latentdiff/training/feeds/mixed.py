"""Two feeds in turn: the pictures to learn, and others of what the model knows already.

Fine-tuned on one subject alone, a model forgets the rest: everything begins to look like it. Ruiz
et al. 2022 (DreamBooth, arXiv:2208.12242) keep the old by training on it meanwhile.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from latentdiff.training.feeds.feed import Entry, Feed, Samples


def turn(batch: int, share: float) -> tuple[bool, int]:
    """(whether it is the prior's, which of its own batches) of a batch of the run.

    Of the first k batches floor(k * share) are the prior's, spread as evenly as can be.
    """
    before, after = math.floor(batch * share), math.floor((batch + 1) * share)
    return (True, before) if after > before else (False, batch - before)


class WithPrior:
    """A feed whose batches come from two; see `latentdiff.training.feeds.feed.Feed`."""

    def __init__(self, own: Feed, prior: Feed, *, share: float, batch_size: int) -> None:
        self.own, self.prior = own, prior
        self.share, self.batch_size = share, batch_size

    def _of(self, positions: Sequence[int]) -> tuple[Feed, list[int]]:
        """The feed of these positions, which are of one batch, and its own numbers for them."""
        batch = positions[0] // self.batch_size
        of_prior, own_batch = turn(batch, self.share)
        shift = (own_batch - batch) * self.batch_size
        return (self.prior if of_prior else self.own), [p + shift for p in positions]

    @property
    def summary(self) -> dict[str, Any]:
        prior = {f"prior {name}": value for name, value in self.prior.summary.items()}
        return {**self.own.summary, "prior share": self.share, **prior}

    @property
    def fingerprint(self) -> str:
        both = f"{self.own.fingerprint} {self.prior.fingerprint} {self.share}"
        return hashlib.blake2b(both.encode(), digest_size=32).hexdigest()

    def samples(self, positions: Sequence[int]) -> Samples:
        feed, places = self._of(positions)
        return feed.samples(places)

    def names(self, positions: Sequence[int]) -> list[str]:
        found = []
        for position in positions:
            feed, places = self._of([position])
            found += feed.names(places)
        return found

    def trained(self, count: int) -> list[Entry]:
        return self.own.trained(count)

    def held_out(self, count: int) -> list[Entry]:
        return self.own.held_out(count)

    def prompts(self) -> tuple[str, ...]:
        return self.own.prompts()

    def words(self) -> tuple[str, ...]:
        return tuple(sorted({*self.own.words(), *self.prior.words()}))
