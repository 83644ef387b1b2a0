"""Pixels to latents and back, and statistics folded into the weights."""

import copy

import pytest
import tiny
import torch

from latentdiff.models.autoencoder import Autoencoder, fold_latent_statistics


@pytest.fixture(params=["tiny", "sd1"])
def autoencoder(request: pytest.FixtureRequest) -> Autoencoder:
    bundle = tiny.tiny() if request.param == "tiny" else tiny.stable_diffusion_1()
    return Autoencoder(copy.deepcopy(bundle.vae))


def pictures(count: int, size: int = 64) -> torch.Tensor:
    """Smooth random pictures in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def normal(like: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_encoding_and_decoding_are_those_of_the_network(autoencoder: Autoencoder) -> None:
    pixels = pictures(2)
    posterior = autoencoder.vae.encode(pixels).latent_dist
    moments = autoencoder.encode_moments(pixels)
    assert moments.shape == (2, 8, 64 // autoencoder.factor, 64 // autoencoder.factor)
    torch.testing.assert_close(moments[:, :4], posterior.mean, rtol=0, atol=0)
    latents = autoencoder.mode(moments)
    scale = autoencoder.vae.config.scaling_factor
    torch.testing.assert_close(latents, posterior.mean * scale)
    theirs = autoencoder.vae.decode(latents / scale).sample
    # The prepared decoder sums in another order; a level of 255 is 0.0078.
    torch.testing.assert_close(autoencoder.decode(latents), theirs, rtol=0, atol=1e-4)


@torch.no_grad()
def test_samples_have_the_posterior_s_mean_and_spread(autoencoder: Autoencoder) -> None:
    moments = autoencoder.encode_moments(pictures(1))
    noise = normal(moments[:, :4])
    posterior = autoencoder.vae.encode(pictures(1)).latent_dist
    expected = (posterior.mean + posterior.std * noise) * autoencoder.vae.config.scaling_factor
    torch.testing.assert_close(autoencoder.sample(moments, noise), expected)


def test_extreme_log_variances_are_bounded() -> None:
    autoencoder = Autoencoder(tiny.tiny().vae)
    moments = torch.zeros(1, 8, 2, 2)
    moments[:, 4:] = 1e4
    sampled = autoencoder.sample(moments, torch.ones(1, 4, 2, 2))
    assert bool(torch.isfinite(sampled).all())


@torch.no_grad()
def test_folded_statistics_give_unit_latents_and_the_same_reconstructions(
    autoencoder: Autoencoder,
) -> None:
    pixels = pictures(16)
    moments = autoencoder.encode_moments(pixels)
    noise = normal(moments[:, :4])
    raw = autoencoder.sample(moments, noise) / autoencoder.scaling_factor
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    before = autoencoder.decode(raw * autoencoder.scaling_factor)

    fold_latent_statistics(autoencoder.vae, mean, std)

    latents = autoencoder.sample(autoencoder.encode_moments(pixels), noise)
    assert autoencoder.scaling_factor == 1.0
    assert autoencoder.vae.config.shift_factor is None
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(autoencoder.decode(latents), before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_folding_what_is_already_folded_changes_nothing() -> None:
    autoencoder = Autoencoder(copy.deepcopy(tiny.tiny().vae))
    before = autoencoder.encode_moments(pictures(1))
    fold_latent_statistics(autoencoder.vae, torch.zeros(4), torch.ones(4))
    torch.testing.assert_close(autoencoder.encode_moments(pictures(1)), before, rtol=0, atol=0)
