"""The jackknife and the bootstrap where their answers are known."""

import math

import numpy as np
import pytest

from latentdiff.evaluation.sets.resampling import bootstrap, groups_of, jackknife

VALUES = np.random.default_rng(0).normal(2.0, 3.0, 200)
STANDARD_ERROR = VALUES.std(ddof=1) / math.sqrt(len(VALUES))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    left_out = (VALUES.sum() - VALUES) / (len(VALUES) - 1)
    found = jackknife(float(VALUES.mean()), left_out)
    assert found.standard_error == pytest.approx(STANDARD_ERROR)
    assert found.high - found.low == pytest.approx(2 * 1.972 * STANDARD_ERROR, rel=1e-3)


def test_the_bootstrap_of_a_mean_is_near_its_standard_error_and_repeats_itself():
    found = bootstrap(lambda i: float(VALUES[i].mean()), len(VALUES))
    assert found.value == pytest.approx(VALUES.mean())
    assert found.standard_error == pytest.approx(STANDARD_ERROR, rel=0.1)
    assert found.low < found.value < found.high
    assert found == bootstrap(lambda i: float(VALUES[i].mean()), len(VALUES))


def test_groups_deal_every_sample_once():
    parts = groups_of(23, 5)
    assert sorted(np.concatenate(parts).tolist()) == list(range(23))
    assert {len(part) for part in parts} == {4, 5}


def test_too_little_data_is_refused():
    with pytest.raises(ValueError, match="2 groups"):
        jackknife(0.0, [1.0])
    with pytest.raises(ValueError, match="says nothing"):
        bootstrap(lambda i: 0.0, 0)
    with pytest.raises(ValueError, match="groups"):
        groups_of(3, 4)
