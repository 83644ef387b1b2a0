"""Degradations keep what they must and are addressed by sample."""

import numpy as np
import pytest
import torch

from latentdiff.evaluation import degradations


def stacked(draws: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.stack([d[key] for d in draws])) for key in draws[0]}


def nothing() -> dict[str, np.ndarray]:
    drawn = degradations.draw(0, 0)
    return {key: np.zeros_like(value) for key, value in drawn.items()} | {
        "gain": np.asarray(1.0, np.float32)
    }


@pytest.mark.parametrize("operator", degradations.OPERATORS)
def test_every_operator_keeps_flat_colour(operator: tuple[str, float, float]) -> None:
    rows = degradations.row_operator(operator[0], 32, *operator[1:])
    assert rows.sum(axis=1) == pytest.approx(np.ones(32))


def test_block_dct_is_a_projection_of_the_stated_rank() -> None:
    rows = degradations.row_operator("block_dct", 32, 8, 3)
    assert rows @ rows == pytest.approx(rows)
    assert np.trace(rows) == pytest.approx(3 * 32 / 8)


def test_gauss_widens_a_point_by_its_std() -> None:
    rows = degradations.row_operator("gauss", 65, 2.0, 0)
    place = np.arange(65) - 32
    assert np.sqrt((rows[32] * place**2).sum()) == pytest.approx(2.0, rel=1e-3)


def test_an_empty_degradation_changes_nothing() -> None:
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    found = degradations.Degrade()(pixels, stacked([nothing(), nothing()]))
    assert torch.allclose(found, pixels, atol=1e-5)


def test_a_bend_moves_by_the_stated_pixels() -> None:
    shifted = nothing()
    shifted["warp"][0] = 3.0
    pixels = torch.rand(1, 3, 128, 128) * 2 - 1
    found = degradations.Degrade()(pixels, stacked([shifted]))
    assert torch.allclose(found[..., :120], pixels[..., 3:123], atol=1e-4)


def test_samples_do_not_depend_on_their_neighbours() -> None:
    degrade = degradations.Degrade()
    pixels = torch.rand(4, 3, 128, 128) * 2 - 1
    drawn = stacked([degradations.draw(3, k) for k in range(4)])
    together = degrade(pixels, drawn)
    alone = degrade(pixels[2:3], {key: value[2:3] for key, value in drawn.items()})
    assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_draws_are_a_function_of_seed_and_position() -> None:
    a, b, c = (degradations.draw(1, 7), degradations.draw(1, 7), degradations.draw(1, 8))
    assert all((a[key] == b[key]).all() for key in a)
    assert any((a[key] != c[key]).any() for key in a)
