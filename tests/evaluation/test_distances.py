"""PSNR and the PCA floor against known answers."""

import numpy as np
import pytest

from latentdiff.evaluation import distances


def pictures(n: int, seed: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_constant_error_has_the_textbook_psnr() -> None:
    black = np.zeros((2, 8, 8, 3), np.uint8)
    off = np.stack([np.full((8, 8, 3), 1, np.uint8), np.full((8, 8, 3), 255, np.uint8)])
    assert distances.psnr(black, off) == pytest.approx([20 * np.log10(255), 0.0])


def test_uint8_differences_do_not_wrap_around() -> None:
    a, b = np.full((1, 4, 4, 3), 10, np.uint8), np.full((1, 4, 4, 3), 20, np.uint8)
    assert distances.psnr(a, b) == pytest.approx(distances.psnr(b, a))


def test_equal_pictures_reach_the_stated_ceiling() -> None:
    same = pictures(1)
    assert distances.psnr(same, same) == pytest.approx([distances.PSNR_CEILING])


def test_a_box_sees_only_what_is_inside_it() -> None:
    a = np.zeros((2, 10, 10, 3), np.uint8)
    b = a.copy()
    b[1, 2:5, 6:9] = 255
    found, owner = distances.psnr_in_boxes(a, b, [[(6, 2, 9, 5)], [(6, 2, 9, 5), (0, 0, 6, 10)]])
    assert found == pytest.approx([distances.PSNR_CEILING, 0.0, distances.PSNR_CEILING])
    assert owner.tolist() == [0, 1, 1]


def test_boxes_are_cut_at_the_edge_and_empty_ones_left_out() -> None:
    a = np.zeros((1, 10, 10, 3), np.uint8)
    found, owner = distances.psnr_in_boxes(a, a + 255, [[(-5, -5, 2, 2), (12, 12, 20, 20)]])
    assert found == pytest.approx([0.0]) and owner.tolist() == [0]


def test_patches_come_back_in_their_places() -> None:
    stack = pictures(3)
    patches = distances.to_patches(stack, 4)
    assert (patches[1].reshape(4, 4, 3) == stack[0, :4, 4:8]).all()
    assert (distances.from_patches(patches, stack.shape, 4) == stack).all()


def test_pca_with_all_components_loses_nothing() -> None:
    stack = pictures(4)
    pca = distances.fit_patch_pca(stack, 4, 48)
    assert (pca.reconstruct(stack) == stack).all()


def test_pca_recovers_pictures_of_its_own_rank() -> None:
    # Patches that are combinations of two patterns need two components and no third.
    draw = np.random.default_rng(1)
    patterns = draw.uniform(-1, 1, (2, 48))
    weights = draw.uniform(-40, 40, (64, 2))
    patches = np.rint(128 + weights @ patterns).clip(0, 255).astype(np.uint8)
    stack = distances.from_patches(patches, (4, 16, 16, 3), 4)
    floors = [distances.pca_floor(stack, stack, 4, c).mean() for c in (1, 2)]
    # Rounding alone has an error of 1/12 grey level², which is 58.9 dB; a projection on two
    # of 48 directions shares it, and rounding again cannot double it.
    assert floors[1] > 56 > floors[0] + 10


def test_mismatched_stacks_are_refused() -> None:
    with pytest.raises(ValueError, match="two equal uint8 stacks"):
        distances.psnr(pictures(2), pictures(3))


def test_psnr_equals_scikit_images() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    random = np.random.default_rng(3)
    a, b = random.integers(0, 256, (2, 4, 9, 7, 3)).astype(np.uint8)
    expected = [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(distances.psnr(a, b), expected, rtol=1e-12)
