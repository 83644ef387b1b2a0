"""Wilson intervals against known answers."""

import math

import pytest

from latentdiff.evaluation.intervals import Z_95, wilson


def test_ends_solve_wilsons_equation() -> None:
    # The ends are the p at which the observed share lies z standard errors away.
    for successes, count in ((1, 10), (45, 64), (500, 512)):
        found = wilson(successes, count)
        for end in (found.low, found.high):
            z = abs(successes / count - end) / math.sqrt(end * (1 - end) / count)
            assert z == pytest.approx(Z_95, rel=1e-9)


def test_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3: 81/263 and 15/148.
    assert wilson(81, 263).low == pytest.approx(0.2553, abs=5e-5)
    assert wilson(81, 263).high == pytest.approx(0.3662, abs=5e-5)
    assert wilson(15, 148).low == pytest.approx(0.0624, abs=5e-5)
    assert wilson(15, 148).high == pytest.approx(0.1605, abs=5e-5)


def test_all_or_nothing_is_not_certain() -> None:
    none, every = wilson(0, 20), wilson(20, 20)
    # Newcombe's table again: 0/20 gives 0 … 0.1611.
    assert none.low == 0.0 and none.high == pytest.approx(0.1611, abs=5e-5)
    assert every.high == 1.0 and every.low == pytest.approx(1 - none.high)


def test_nothing_counted_says_nothing() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)
