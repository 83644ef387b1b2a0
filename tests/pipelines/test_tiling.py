"""Decoding in tiles gives what the whole decoder gives."""

from __future__ import annotations

import pytest
import tiny
import torch

from latentdiff.models.autoencoder import Autoencoder
from latentdiff.pipelines import TextToImagePipeline
from latentdiff.pipelines.from_pictures import tiling


@pytest.mark.parametrize("model", [tiny.tiny, tiny.stable_diffusion_1])
@pytest.mark.parametrize("shape", [(16, 16), (13, 21)])
@torch.no_grad()
def test_tiles_equal_the_whole(model: object, shape: tuple[int, int]) -> None:
    autoencoder = Autoencoder(model().vae)  # type: ignore[operator]
    latents = torch.randn(2, 4, *shape, generator=torch.Generator().manual_seed(0))
    whole = autoencoder.decode(latents)
    tiles = tiling.decode(autoencoder, latents, 16)
    assert tiles.shape == whole.shape
    assert float((tiles - whole).abs().max()) < 1e-4
    assert float(whole.std()) > 0.05


@torch.no_grad()
def test_one_cell_less_of_overlap_would_show() -> None:
    autoencoder = Autoencoder(tiny.tiny().vae)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    least = -(-(2 + 2 * len(autoencoder.vae.decoder.up_blocks[-1].resnets)) // 2)
    assert tiling._overlap(autoencoder.vae.decoder) >= least
    x = tiling._first_half(autoencoder, latents)
    tiles = list(tiling._tiles(*x.shape[-2:], 8, 1))
    known: list[tiling._Statistics] = []
    for norm in tiling._norms(autoencoder.vae.decoder):
        known.append(tiling._gather(autoencoder.vae.decoder, norm, x, tiles, known))
    one = tiles[0]
    pixels = tiling._last_half(autoencoder.vae.decoder, x[..., *one.shown], known)
    short = pixels[..., *one.core] - autoencoder.decode(latents)[..., *one.place]
    assert float(short.abs().max()) > 1e-4


def test_a_request_may_ask_for_tiles() -> None:
    pipe = TextToImagePipeline(tiny.tiny())
    options = {"seed": 1, "num_inference_steps": 1, "width": 96, "height": 64}
    whole = pipe("a cat", **options).images[0]  # type: ignore[arg-type]
    tiled = pipe("a cat", decode_tile=64, **options).images[0]  # type: ignore[arg-type]
    pairs = zip(whole.tobytes(), tiled.tobytes(), strict=True)
    assert max(abs(a - b) for a, b in pairs) <= 1
