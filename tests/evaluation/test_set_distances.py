"""Fréchet and kernel distances against closed forms and other implementations."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from latentdiff.evaluation.sets.frechet import (
    Moments,
    distance_of,
    extrapolated,
    frechet,
    frechet_distance,
    paired_difference,
)
from latentdiff.evaluation.sets.kernel_distance import cmmd, gaussian_kernel, kernel_distance, kid


def draw(count, width=6, seed=0, shift=0.0):
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return random.normal(size=(count, width)) @ mixing + shift


def test_frechet_of_gaussians_with_one_axis_system_is_the_textbooks():
    mean_1, mean_2 = np.array([1.0, 2.0]), np.array([0.0, 0.0])
    found = frechet_distance(mean_1, np.diag([4.0, 9.0]), mean_2, np.diag([1.0, 1.0]))
    assert found == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 1) ** 2)


def test_frechet_equals_scipys_matrix_root_and_torchmetrics():
    first, second = draw(400), draw(500, seed=1, shift=0.3)
    a, b = Moments.of(first), Moments.of(second)
    np.testing.assert_allclose(a.covariance, np.cov(first.T))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert distance_of(a, b) == pytest.approx(expected, rel=1e-6)
    tensors = [torch.from_numpy(v) for v in (a.mean, a.covariance, b.mean, b.covariance)]
    assert distance_of(a, b) == pytest.approx(float(_compute_fid(*tensors)), rel=1e-6)


def test_a_singular_covariance_is_no_trouble():
    few = draw(4, width=10)
    assert distance_of(Moments.of(few), Moments.of(few)) == pytest.approx(0.0, abs=1e-5)


def test_moments_of_parts_add_and_subtract():
    whole = draw(50)
    parts = Moments.of(whole[:20]) + Moments.of(whole[20:])
    np.testing.assert_allclose(parts.covariance, Moments.of(whole).covariance)
    back = parts - Moments.of(whole[20:])
    np.testing.assert_allclose(back.covariance, Moments.of(whole[:20]).covariance, atol=1e-9)


def test_the_jackknifes_error_is_the_scatter_of_repeated_experiments():
    reference = Moments.of(draw(20_000, seed=7))
    found = [frechet(draw(400, seed=k, shift=0.5), reference) for k in range(40)]
    scatter = np.std([f.value for f in found], ddof=1)
    assert np.mean([f.standard_error for f in found]) == pytest.approx(scatter, rel=0.35)
    assert all(f.low < f.value < f.high for f in found)


def test_extrapolation_removes_the_bias_of_few_samples():
    """Both sets are of one distribution: the distance is 0, which 300 samples do not show."""
    reference = Moments.of(draw(100_000, width=12, seed=7))
    few = [draw(300, width=12, seed=k) for k in range(12)]
    plain = np.mean([distance_of(Moments.of(f), reference) for f in few])
    limits = [extrapolated(f, reference, groups=5) for f in few]
    assert plain > 0.1
    assert abs(np.mean([e.limit.value for e in limits])) < plain / 4
    assert all(e.slope > 0 and e.sizes[-1] == 300 for e in limits)
    scatter = np.std([e.limit.value for e in limits], ddof=1)
    assert 0.5 < np.mean([e.limit.standard_error for e in limits]) / scatter < 2.0


def test_kid_equals_torchmetrics_on_all_samples():
    first, second = draw(60), draw(80, seed=1, shift=0.3)
    # Their estimate wants sets of one size.
    expected = poly_mmd(torch.from_numpy(first), torch.from_numpy(second[:60]))
    assert kid(first, second[:60]).value == pytest.approx(float(expected), rel=1e-9)
    assert kid(first, second).value > 0


def test_kid_is_unbiased_where_the_distributions_are_equal():
    values = [kid(draw(30, seed=k), draw(40, seed=1000 + k), groups=2).value for k in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(300)


def test_the_gaussian_kernels_distance_has_its_closed_form():
    """MMD² of N(0, 1) and N(d, 1) with bandwidth s: 2s/√(s²+2)·(1 − exp(−d²/(2(s²+2))))."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(4000, 1)), random.normal(size=(4000, 1)) + 1.5
    s = 1.0
    expected = 2 * s / np.sqrt(s**2 + 2) * (1 - np.exp(-(1.5**2) / (2 * (s**2 + 2))))
    found = kernel_distance(x, y, gaussian_kernel(s))
    assert found.low < expected < found.high
    assert found.standard_error < 0.05 * expected


def test_leaving_a_group_out_is_computing_without_it():
    from latentdiff.evaluation.sets.resampling import groups_of, jackknife

    x, y = draw(20), draw(20, seed=1)
    of_x, of_y = groups_of(20, 5, 0), groups_of(20, 5, 1)
    values = [
        kid(np.delete(x, a, 0), np.delete(y, b, 0)).value for a, b in zip(of_x, of_y, strict=True)
    ]
    found = kid(x, y, groups=5)
    assert found.standard_error == pytest.approx(jackknife(0.0, values).standard_error)


def test_cmmd_is_the_biased_estimate_on_unit_vectors_times_1000():
    x, y = draw(30), draw(40, seed=1)
    a = torch.nn.functional.normalize(torch.from_numpy(x), dim=1)
    b = torch.nn.functional.normalize(torch.from_numpy(y), dim=1)

    def mean(p, q):
        return torch.exp(-torch.cdist(p, q).square() / 200).mean()

    expected = 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert cmmd(x, y).value == pytest.approx(float(expected), rel=1e-6)
    assert cmmd(5 * x, y).value == pytest.approx(cmmd(x, y).value)


def test_features_that_do_not_compare_are_refused():
    with pytest.raises(ValueError, match="different widths"):
        kid(draw(5), draw(5, width=3))
    with pytest.raises(ValueError, match="NaN"):
        kid(draw(5), np.full((5, 6), np.nan))
    with pytest.raises(ValueError, match="groups"):
        frechet(draw(5), draw(10))


def test_a_paired_difference_knows_that_both_share_their_samples():
    random = np.random.default_rng(0)
    data, base = random.normal(size=(400, 6)), random.normal(size=(60, 6))
    moved = base + np.array([1.0, 0, 0, 0, 0, 0])
    difference = paired_difference(moved, base, data)
    alone = [frechet(features, data) for features in (moved, base)]
    assert difference.value == pytest.approx(alone[0].value - alone[1].value)
    assert difference.low > 0
    assert difference.standard_error < np.hypot(*(one.standard_error for one in alone))
    same = paired_difference(base, base, data)
    assert same.value == 0
    assert same.standard_error == 0
    with pytest.raises(ValueError, match="pairs"):
        paired_difference(moved[:5], base, data)
