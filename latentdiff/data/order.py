"""The order of samples when batches must share a bucket: a pure function of the position.

Batch k of the run holds positions k·B … (k + 1)·B - 1, all from one bucket. A bucket is read as an
endless row of epochs of its own, each a fresh permutation, B samples at a time; the run deals
batches out so that when e epochs are over, bucket b has given ceil(e · n_b / B) of them, n_b being
its pictures. So after e epochs every picture was seen e times or more, none is dropped, and in the
long run all are seen equally often, however small their bucket. With one bucket this is the order
of `data.pictures.row_of`, bit for bit.

B is the batch of a whole update, over all processes and accumulated micro-batches: the pieces that
they take then share a bucket too, and an update sees the same samples whatever their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentdiff import seeding
from latentdiff.errors import UserError


class BucketOrder:
    """Which row each position of a run sees."""

    def __init__(
        self, bucket_of: ArrayLike, *, batch_size: int, seed: int, repeats: ArrayLike = ()
    ) -> None:
        """bucket_of: (n,) int, the bucket of each row; a row with -1 is never seen.
        batch_size: samples that share a bucket. seed: the run's. repeats: (n,) int, how often each
        row is seen in an epoch; empty for once each.

        Raises UserError when no row has a bucket.
        """
        assert batch_size > 0
        buckets = np.asarray(bucket_of, np.int32)
        used = np.flatnonzero(buckets >= 0)
        often = np.asarray(repeats, np.int64)
        if len(often):
            used = np.repeat(used, often[used])
        if not len(used):
            raise UserError("there is no picture to train on: none of them can be used")
        self.batch_size, self.seed = batch_size, seed
        names, counts = np.unique(buckets[used], return_counts=True)
        grouped = used[np.argsort(buckets[used], kind="stable")]
        self._names: NDArray[np.int32] = names
        self._counts: NDArray[np.int64] = counts.astype(np.int64)
        # The rows of each bucket, ascending.
        self._members: list[NDArray[np.int64]] = np.split(grouped, np.cumsum(counts)[:-1])
        self._forget()

    def __len__(self) -> int:
        """Rows that an epoch sees, each as often as it is seen."""
        return int(self._counts.sum())

    def __getstate__(self) -> dict[str, Any]:
        """Permutations are not sent to a worker process: it draws those it needs."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_epoch", "_orders")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._epoch: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def row_of(self, position: int) -> int:
        """The row that a position sees."""
        bucket, turn = self._batch(position // self.batch_size)
        place = turn * self.batch_size + position % self.batch_size
        epoch, within = divmod(place, int(self._counts[bucket]))
        return int(self._members[bucket][self._order(bucket, epoch)[within]])

    def rows(self, positions: Sequence[int]) -> NDArray[np.int64]:
        """(len(positions),) the rows that these positions see."""
        return np.array([self.row_of(position) for position in positions], np.int64)

    def bucket_at(self, position: int) -> int:
        """The bucket that a position's batch comes from, as the caller numbered it."""
        return int(self._names[self._batch(position // self.batch_size)[0]])

    def epoch_of(self, position: int) -> int:
        """The epoch, from 0, that a position's batch belongs to."""
        return self._epoch_of_batch(position // self.batch_size)

    def substitute(
        self, row: int, position: int, attempt: int, *, elsewhere: bool = False
    ) -> int | None:
        """Another row for one that a position sees and that cannot be used.

        attempt = 0, 1, … names each of the others of its bucket once, from an addressed start on,
        then, if `elsewhere` is set, each row of the other buckets; None when they are used up.
        """
        bucket = self._batch(position // self.batch_size)[0]
        members = self._members[bucket]
        place = int(np.searchsorted(members, row))
        assert place < len(members) and members[place] == row, f"row {row} is of another bucket"
        others = len(members) - 1
        if attempt < others:
            begin = seeding.integers(others, self.seed, "substitute", position)
            return int(members[(place + 1 + (begin + attempt) % others) % len(members)])
        strangers = len(self) - len(members)
        if not elsewhere or attempt - others >= strangers:
            return None
        begin = seeding.integers(strangers, self.seed, "substitute", position, "elsewhere")
        left = (begin + attempt - others) % strangers
        for k, rows in enumerate(self._members):
            if k != bucket:
                if left < len(rows):
                    return int(rows[left])
                left -= len(rows)
        raise AssertionError("the rows of other buckets were counted")

    def _batches_before(self, epoch: int) -> NDArray[np.int64]:
        """(buckets,) the batches that each bucket gave before an epoch: ceil(epoch · n_b / B)."""
        return -(-epoch * self._counts // self.batch_size)

    def _epoch_of_batch(self, batch: int) -> int:
        """The last epoch that begins at or before a batch."""
        # Σ ceil(e · n_b / B) lies between e · n / B and that plus the number of buckets.
        low = max(0, (batch - len(self._counts)) * self.batch_size // len(self))
        high = batch * self.batch_size // len(self)
        while low < high:
            middle = (low + high + 1) // 2
            if int(self._batches_before(middle).sum()) <= batch:
                low = middle
            else:
                high = middle - 1
        return low

    def _batch(self, batch: int) -> tuple[int, int]:
        """(place of its bucket in the lists, which of that bucket's batches) of a batch."""
        epoch = self._epoch_of_batch(batch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._deal(epoch))
        within = batch - int(self._batches_before(epoch).sum())
        return int(self._epoch[1][within]), int(self._epoch[2][within])

    def _deal(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(batches,) the bucket of each batch of an epoch, shuffled, and its turn in it."""
        first, last = self._batches_before(epoch), self._batches_before(epoch + 1)
        given = last - first
        ordered = np.repeat(np.arange(len(given)), given)
        turns = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
        shuffled = ordered[seeding.permutation(len(ordered), self.seed, "buckets", epoch)]
        turn = np.empty_like(turns)
        turn[np.argsort(shuffled, kind="stable")] = turns
        return shuffled, turn

    def _order(self, bucket: int, epoch: int) -> NDArray[np.int64]:
        """The order of one bucket's rows in one of its own epochs."""
        if bucket not in self._orders or self._orders[bucket][0] != epoch:
            name = () if len(self._counts) == 1 else (int(self._names[bucket]),)
            drawn = seeding.permutation(int(self._counts[bucket]), self.seed, "order", epoch, *name)
            self._orders[bucket] = (epoch, drawn)
        return self._orders[bucket][1]
