"""Shares and singular values of embeddings whose spread is known."""

from __future__ import annotations

import numpy as np
import pytest

from latentdiff.evaluation.text_spread import text_spread

RNG = np.random.default_rng(0)


def test_subjects_and_settings_that_add_up_explain_all_the_variance() -> None:
    subjects, settings = RNG.standard_normal((7, 5)), RNG.standard_normal((4, 5))
    found = text_spread(subjects[:, None] + settings[None])
    parts = [float(((m - m.mean(axis=0)) ** 2).sum(axis=1).mean()) for m in (subjects, settings)]
    assert found.both == pytest.approx(0.0, abs=1e-12)
    assert found.subject == pytest.approx(parts[0] / sum(parts))
    assert found.setting == pytest.approx(parts[1] / sum(parts))


def test_singular_values_are_the_lengths_of_the_directions_in_which_subjects_differ() -> None:
    # Four subjects at +-3 along one axis and +-1 along another, about a mean of their own.
    subjects = np.array([[3.0, 1, 0], [3, -1, 0], [-3, 1, 0], [-3, -1, 0]]) + 5.0
    found = text_spread(np.repeat(subjects[:, None], 2, axis=1))
    assert found.singular_values == pytest.approx((1.0, 1 / 3, 0.0))
    assert (found.subject, found.setting) == pytest.approx((1.0, 0.0))


def test_embeddings_that_are_all_equal_have_no_spread() -> None:
    with pytest.raises(ValueError, match="all embeddings are equal"):
        text_spread(np.ones((3, 3, 2)))
