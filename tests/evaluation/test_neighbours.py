"""Precision and recall, R-precision and the memorisation probe on data whose answers are known."""

import itertools

import numpy as np
import pytest
import scipy.stats

from latentdiff.evaluation.sets.memorisation import memorisation, nearest, rank_sum
from latentdiff.evaluation.sets.precision_recall import neighbour_distance, precision_recall
from latentdiff.evaluation.sets.retrieval import r_precision


def draw(count, seed, width=4):
    return np.random.default_rng(seed).normal(size=(count, width))


def test_the_kth_neighbour_is_the_kth():
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert neighbour_distance(line, 1) == pytest.approx([1, 1, 2, 4])
    assert neighbour_distance(line, 3) == pytest.approx([7, 6, 4, 7])


def test_precision_and_recall_tell_lost_modes_from_bad_samples():
    data = np.concatenate([draw(300, 0), draw(300, 1) + 20])
    one_mode = precision_recall(draw(300, 2), data)
    assert one_mode.precision.value > 0.85
    assert 0.35 < one_mode.recall.value < 0.5
    assert 0.3 < one_mode.coverage.value < 0.55
    spoilt = precision_recall(np.concatenate([draw(300, 3), draw(300, 4) - 40]), draw(300, 5))
    assert 0.4 < spoilt.precision.value < 0.5
    assert spoilt.recall.value > 0.85


def test_precision_is_counted_by_hand_on_a_line():
    data = np.array([[0.0], [1.0], [10.0]])  # with k = 1 their balls reach 1, 1 and 9
    made = np.array([[-0.5], [0.5], [30.0], [-1.5]])  # reaching 1, 1, 29.5 and 1
    found = precision_recall(made, data, k=1)
    # −0.5 is in the ball of 0; 0.5 in those of 0 and 1; 30 and −1.5 in none.
    assert found.precision.successes == 2
    assert found.density.value == pytest.approx(3 / 4)
    assert found.coverage.successes == 2
    assert found.recall.successes == 3  # 10 lies in the wide ball of the outlier


def test_equal_distributions_have_density_one():
    found = precision_recall(draw(800, 0), draw(800, 1), k=5)
    assert found.density.low - 0.05 < 1 < found.density.high + 0.05


def test_r_precision_is_the_chance_over_all_draws_of_other_prompts():
    prompts = ["a", "b", "c", "d", "e"]
    texts, images = draw(5, 0), draw(5, 1)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts)]
    likeness = unit[0] @ unit[1].T
    expected = []
    for n in range(5):
        others = [m for m in range(5) if m != n]
        hits = [
            likeness[n, n] > max(likeness[n, list(c)]) for c in itertools.combinations(others, 2)
        ]
        expected.append(np.mean(hits))
    found = r_precision(images, texts, prompts, candidates=3)
    np.testing.assert_allclose(found.scores, expected)
    assert found.mean.mean == pytest.approx(np.mean(expected))
    assert found.ranks.tolist() == [(likeness[n] > likeness[n, n]).sum() for n in range(5)]


def test_a_repeated_prompt_is_no_distractor_of_itself():
    texts = np.eye(3)[[0, 0, 1, 2]]
    found = r_precision(texts, texts, ["a", "a", "b", "c"], candidates=3)
    assert found.scores.tolist() == [1, 1, 1, 1]
    assert found.mean.clusters == 3


def test_pictures_that_ignore_their_prompts_score_chance():
    texts, images = draw(400, 0, width=16), draw(400, 1, width=16)
    found = r_precision(images, texts, [str(n) for n in range(400)], candidates=10)
    low, high = found.mean.interval(0.999)
    assert low < found.chance < high
    with pytest.raises(ValueError, match="different prompts"):
        r_precision(images[:4], texts[:4], list("aabb"), candidates=3)


def test_copies_of_training_data_are_found_and_named():
    training, held_out = draw(400, 0, width=32), draw(200, 1, width=32)
    fresh = draw(180, 2, width=32)
    copied = training[:20] + 0.05 * draw(20, 3, width=32)
    found = memorisation(np.concatenate([fresh, copied]), training, held_out)
    assert found.copies.successes == 20
    assert found.held_out_copies.successes == 0
    assert found.samples.index[180:].tolist() == list(range(20))
    assert found.samples.distance[180:] == pytest.approx(0.05, rel=0.4)
    only_copies = memorisation(copied, training, held_out)
    assert only_copies.nearer == 1.0
    assert only_copies.p_value < 1e-6


def test_fresh_samples_lie_as_far_as_held_out_data():
    found = memorisation(draw(300, 2, width=8), draw(400, 0, width=8), draw(300, 1, width=8))
    assert 0.42 < found.nearer < 0.58
    assert found.p_value > 0.01


def test_an_exact_copy_has_distance_zero():
    training = draw(10, 0, width=8) + 100.0
    found = nearest(training[3:4], training, near=5)
    assert (found.index[0], found.distance[0], found.ratio[0]) == (3, 0.0, 0.0)


def test_the_rank_sum_equals_scipys():
    random = np.random.default_rng(0)
    first, second = np.round(random.normal(size=40), 1), np.round(random.normal(size=50) + 0.3, 1)
    share, p = rank_sum(first, second)
    expected = scipy.stats.mannwhitneyu(
        first, second, alternative="less", use_continuity=False, method="asymptotic"
    )
    assert 1 - share == pytest.approx(expected.statistic / (40 * 50))
    assert p == pytest.approx(expected.pvalue, rel=1e-9)
