"""Batches share a bucket, every picture comes equally often, and order is addressed, not kept."""

import math
import pickle

import numpy as np
import pytest

from latentdiff.data.order import BucketOrder
from latentdiff.data.rendered.scene_pictures import row_of
from latentdiff.errors import UserError

BUCKETS = np.random.default_rng(0).permutation([0] * 30 + [1] * 7 + [2] * 1 + [3] * 13 + [-1] * 4)
USED, BATCH = 51, 8


def order(bucket_of: np.ndarray = BUCKETS, batch_size: int = BATCH, seed: int = 5) -> BucketOrder:
    return BucketOrder(bucket_of, batch_size=batch_size, seed=seed)


def end_of_epoch(epochs: int) -> int:
    """Positions of the first epochs, by the definition."""
    counts = np.bincount(BUCKETS[BUCKETS >= 0]).tolist()
    return BATCH * sum(math.ceil(epochs * n / BATCH) for n in counts)


def test_with_one_bucket_it_is_the_order_of_any_pool_bit_for_bit() -> None:
    one = order(np.zeros(37, int))
    assert one.rows(range(500)).tolist() == [row_of(p, 37, 5) for p in range(500)]
    small = order(np.full(3, 2))
    assert small.rows(range(100)).tolist() == [row_of(p, 3, 5) for p in range(100)]


def test_a_batch_holds_rows_of_one_bucket() -> None:
    rows = order().rows(range(BATCH * 60)).reshape(60, BATCH)
    for batch, members in enumerate(rows):
        assert len({int(b) for b in BUCKETS[members]}) == 1
        assert BUCKETS[members[0]] == order().bucket_at(batch * BATCH + 3)


def test_every_piece_of_a_batch_shares_its_bucket_on_any_number_of_processes() -> None:
    deal = order()
    for process in range(4):
        piece = deal.rows(range(BATCH * 3 + process * 2, BATCH * 3 + process * 2 + 2))
        assert set(BUCKETS[piece]) == {deal.bucket_at(BATCH * 3)}


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 8])
def test_after_any_epoch_every_picture_was_seen_and_none_too_often(epochs: int) -> None:
    seen = np.bincount(order().rows(range(end_of_epoch(epochs))), minlength=len(BUCKETS))
    for bucket in range(4):
        visits = seen[bucket == BUCKETS]
        given = math.ceil(epochs * len(visits) / BATCH) * BATCH
        assert visits.sum() == given
        assert epochs <= given // len(visits) <= visits.min()
        assert visits.max() <= -(-given // len(visits))
    assert seen[BUCKETS < 0].sum() == 0


def test_in_the_long_run_every_picture_is_seen_equally_often() -> None:
    assert end_of_epoch(BATCH) == BATCH * USED
    seen = np.bincount(order().rows(range(BATCH * USED)), minlength=len(BUCKETS))
    assert (seen[BUCKETS >= 0] == BATCH).all()


def test_a_bucket_shows_all_its_pictures_before_it_shows_one_again() -> None:
    rows = order().rows(range(BATCH * 40))
    mine = rows[BUCKETS[rows] == 0]
    for first in range(0, len(mine) - 30, 30):
        assert sorted(mine[first : first + 30]) == np.flatnonzero(BUCKETS == 0).tolist()


def test_epochs_are_counted_by_batches() -> None:
    deal = order()
    ends = [end_of_epoch(e) for e in range(6)]
    for position in range(ends[5]):
        epoch = deal.epoch_of(position)
        assert ends[epoch] <= position < ends[epoch + 1]
    few = order(np.zeros(3, int))  # a batch spans epochs: the last one that begins with it
    assert [few.epoch_of(BATCH * k) for k in range(4)] == [0, 2, 5, 8]


def test_any_position_can_be_asked_for_at_any_time_by_anyone() -> None:
    through = order().rows(range(1000))
    jumps = np.random.default_rng(1).permutation(1000)
    asked = order()
    assert [asked.row_of(int(p)) for p in jumps] == through[jumps].tolist()
    sent = pickle.loads(pickle.dumps(asked))
    assert sent.rows(range(500, 600)).tolist() == through[500:600].tolist()
    far = 10**12 + 3
    assert order().row_of(far) == asked.row_of(far)


def test_what_was_drawn_is_not_sent_to_a_worker() -> None:
    deal = order(np.arange(20_000) % 5)
    fresh = len(pickle.dumps(deal))
    deal.rows(range(0, 20_000, 100))
    assert len(pickle.dumps(deal)) == fresh


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    first = order().rows(range(end_of_epoch(3)))
    assert not np.array_equal(first, order(seed=6).rows(range(end_of_epoch(3))))


def test_the_buckets_of_an_epoch_come_mixed_and_otherwise_in_the_next() -> None:
    even = order(np.arange(400) % 4, batch_size=4)
    buckets = [[even.bucket_at(e * 400 + 4 * k) for k in range(100)] for e in range(2)]
    for epoch in buckets:
        assert np.bincount(epoch).tolist() == [25] * 4
        changes = np.count_nonzero(np.diff(epoch))
        assert 60 < changes < 90  # 3 of 4 neighbours differ, if they are drawn
    assert buckets[0] != buckets[1]


def test_buckets_of_one_size_do_not_march_in_step() -> None:
    pair = order(np.arange(40) % 2, batch_size=4)
    rows = pair.rows(range(40))
    even, odd = rows[rows % 2 == 0] // 2, rows[rows % 2 == 1] // 2
    assert sorted(even) == sorted(odd)
    assert not np.array_equal(even, odd)


def test_no_usable_picture_is_a_users_error() -> None:
    with pytest.raises(UserError, match="no picture to train on"):
        order(np.full(3, -1))


def test_substitutes_are_the_others_of_the_bucket_each_once() -> None:
    deal = order()
    starts = set()
    for position in range(end_of_epoch(2)):
        row = deal.row_of(position)
        others = set(np.flatnonzero(BUCKETS[row] == BUCKETS)) - {row}
        named = [deal.substitute(row, position, attempt) for attempt in range(len(others))]
        assert set(named) == others
        assert deal.substitute(row, position, len(others)) is None
        if named and named[0] is not None and BUCKETS[row] == 0:
            members = np.flatnonzero(BUCKETS == 0).tolist()
            starts.add((members.index(named[0]) - members.index(row)) % 30)
    assert len(starts) > 20


def test_a_bucket_that_is_all_bad_borrows_from_the_others_when_asked() -> None:
    deal = order()
    for position in range(0, end_of_epoch(2), 3):
        row = deal.row_of(position)
        mates = np.count_nonzero(BUCKETS[row] == BUCKETS) - 1
        named = [deal.substitute(row, position, k, elsewhere=True) for k in range(USED)]
        assert named[:mates] == [deal.substitute(row, position, k) for k in range(mates)]
        assert named[-1] is None
        assert {row, *named[:-1]} == set(np.flatnonzero(BUCKETS >= 0))


def test_repeats_weigh_rows_against_each_other() -> None:
    weighed = BucketOrder([0, 0, 0, -1], batch_size=2, seed=5, repeats=[3, 1, 2, 9])
    assert len(weighed) == 6
    for epoch in range(4):
        rows = weighed.rows(range(6 * epoch, 6 * epoch + 6))
        assert np.bincount(rows, minlength=4).tolist() == [3, 1, 2, 0]
    plain = BucketOrder([0, 0, 0, -1], batch_size=2, seed=5)
    assert len(plain) == 3
