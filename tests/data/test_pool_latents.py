"""The latent cache gives back what was encoded, and nothing that is stale."""

import pickle

import numpy as np
import pytest

from latentdiff.data.rendered.pixel_pool import build_pool
from latentdiff.data.rendered.pool_latents import PoolLatents, build_pool_latents
from latentdiff.errors import UserError


def encode(pictures):
    """Mean colour per quarter of the picture, as if it were moments (n, 2, 2, 2)."""
    parts = pictures.reshape(len(pictures), 2, 16, 2, 16, 3).mean(axis=(2, 4))
    return (parts[..., :2].transpose(0, 3, 1, 2) / 255).astype(np.float32)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    return build_pool(folder, world_seed=1, count=7, workers=1, size=32)


def test_moments_are_those_of_the_row_in_any_order(tmp_path, pool):
    cache = build_pool_latents(tmp_path, pool, encode, encoder_hash="a", batch_size=2)
    rows = np.array([6, 0, 3])
    expected = encode(pool.pictures(rows))
    assert cache.shape == (2, 2, 2)
    assert len(cache) == 7
    np.testing.assert_allclose(cache.moments(rows), expected, atol=2**-11)
    exact = build_pool_latents(
        tmp_path / "32", pool, encode, encoder_hash="a", batch_size=3, half=False
    )
    assert np.array_equal(exact.moments(rows), expected)


def test_another_encoder_or_other_pictures_make_it_stale(tmp_path, pool):
    build_pool_latents(tmp_path, pool, encode, encoder_hash="a")
    PoolLatents(tmp_path, encoder_hash="a", fingerprint=pool.fingerprint)
    with pytest.raises(UserError, match=r"stale.*another encoder"):
        PoolLatents(tmp_path, encoder_hash="b", fingerprint=pool.fingerprint)
    with pytest.raises(UserError, match=r"stale.*other pictures"):
        PoolLatents(tmp_path, encoder_hash="a", fingerprint="0" * 64)


def test_a_cache_that_was_cut_off_is_no_cache(tmp_path, pool):
    build_pool_latents(tmp_path, pool, encode, encoder_hash="a")
    calls = []

    def failing(pictures):
        calls.append(len(pictures))
        return encode(pictures) * (np.nan if len(calls) > 1 else 1)

    with pytest.raises(UserError, match="non-finite moments in rows 2 … 3"):
        build_pool_latents(tmp_path, pool, failing, encoder_hash="a", batch_size=2)
    with pytest.raises(UserError, match="no latent cache"):
        PoolLatents(tmp_path, encoder_hash="a", fingerprint=pool.fingerprint)


def test_a_cache_travels_to_other_processes_as_its_folder(tmp_path, pool):
    cache = build_pool_latents(tmp_path, pool, encode, encoder_hash="a")
    sent = pickle.dumps(cache)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).moments(np.array([1])), cache.moments(np.array([1])))
