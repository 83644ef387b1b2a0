"""Means with standard errors against known answers."""

import math

import numpy as np
import pytest

from latentdiff import seeding
from latentdiff.evaluation.paired import clustered_mean, mcnemar, student_t


def test_values_of_their_own_cluster_have_the_textbook_standard_error() -> None:
    x = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    found = clustered_mean(x, list("abcde"))
    assert found.mean == 4.0 and found.n == found.clusters == 5
    assert found.standard_error == pytest.approx(x.std(ddof=1) / math.sqrt(5), rel=1e-12)


def test_copies_of_a_value_in_its_cluster_teach_nothing() -> None:
    x = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    once = clustered_mean(x, list("abcde"))
    often = clustered_mean(np.repeat(x, 7), [c for c in "abcde" for _ in range(7)])
    assert often.mean == once.mean and often.clusters == 5 and often.n == 35
    assert often.standard_error == pytest.approx(once.standard_error, rel=1e-12)


def test_the_order_of_the_values_does_not_matter() -> None:
    x, clusters = np.array([1.0, 2.0, 5.0, 7.0, 0.5]), ["a", "b", "a", "c", "b"]
    order = [3, 1, 4, 0, 2]
    there, here = (
        clustered_mean(x, clusters),
        clustered_mean(x[order], [clusters[i] for i in order]),
    )
    assert here.standard_error == pytest.approx(there.standard_error, rel=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    # 8 pictures with 3 pairs each that share most of their deviation: ignoring the clusters
    # would cover some 75 %.
    draw = seeding.generator(0, "coverage")
    clusters = [str(k) for k in range(8) for _ in range(3)]
    covered = 0
    for _ in range(2000):
        shared = np.repeat(draw.standard_normal(8), 3)
        low, high = clustered_mean(shared + 0.5 * draw.standard_normal(24), clusters).interval()
        covered += low < 0 < high
    # Binomial standard deviation at 95 %: 0.5 %.
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_one_cluster_is_never_sure() -> None:
    found = clustered_mean(np.array([-5.0, -5.1]), ["a", "a"])
    assert math.isnan(found.standard_error)
    assert not found.differs()
    assert clustered_mean(np.zeros(0), []).n == 0


@pytest.mark.parametrize(
    ("p", "degrees", "value"),
    # Any table of Student's t.
    [
        (0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 3, 3.18245), (0.975, 5, 2.57058),
        (0.95, 4, 2.13185), (0.975, 10, 2.22814), (0.95, 30, 1.69726), (0.975, 120, 1.97993),
    ],
)  # fmt: skip
def test_quantiles_of_student(p: float, degrees: int, value: float) -> None:
    assert student_t(p, degrees) == pytest.approx(value, rel=2e-3 if degrees == 3 else 5e-4)
    assert student_t(1 - p, degrees) == pytest.approx(-student_t(p, degrees), rel=1e-9)


def test_mcnemar_counts_a_fair_coin() -> None:
    # 1 of 10 heads or fewer, both sides: 2 · (1 + 10) / 1024.
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar(0, 0) == 1.0 and mcnemar(5, 5) == 1.0
    assert mcnemar(900, 1100) < 1e-4
