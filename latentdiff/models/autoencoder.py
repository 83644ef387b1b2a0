"""Pixels to latents and back: the only place where latents are scaled.

Stages: pixels (B, 3, H, W) in [-1, 1] → posterior moments (B, 2C, H/f, W/f), the mean and log
variance of the *raw* latent → latents (B, C, H/f, W/f) of about unit variance → pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentdiff.models.geometry import latent_factor
from latentdiff.models.light.part import Part, as_part
from latentdiff.models.prepared.decoder import PreparedDecoder
from latentdiff.models.prepared.fits import decoder_fits
from latentdiff.models.prepared.ready import Ready

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

LOGVAR_RANGE = (-30.0, 20.0)
"""Bounds of the log variance, as in Latent Diffusion's `DiagonalGaussianDistribution`."""


class Autoencoder:
    """A KL autoencoder (Rombach et al. 2022) behind named stages.

    Works on whatever dtype and device the wrapped network has; keeps gradients when they are on.
    """

    def __init__(self, vae: AutoencoderKL | Part[AutoencoderKL]) -> None:
        self._part = as_part(vae)
        self._decoder = Ready(self._part, decoder_fits, PreparedDecoder)

    @property
    def vae(self) -> AutoencoderKL:
        """diffusers' own module."""
        return self._part.own

    @property
    def factor(self) -> int:
        """Pixels a latent cell covers along one side (f)."""
        return latent_factor(self._light.config)

    @property
    def latent_channels(self) -> int:
        """C of a latent."""
        return int(self._light.config.latent_channels)

    @property
    def scaling_factor(self) -> float:
        """What raw latents are multiplied by."""
        return float(self._light.config.scaling_factor)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        found: torch.dtype = self._light.dtype
        return found

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        found: torch.device = self._light.device
        return found

    @property
    def _light(self) -> Any:
        """The network in the form that it is in."""
        return self._part.light

    def encode_moments(self, pixels: Tensor) -> Tensor:
        """Posterior moments (B, 2C, h, w) of pixels (B, 3, H, W) in [-1, 1].

        The mean of each channel, then the log variances. Raw: not yet multiplied by
        the scaling factor. H and W must be multiples of the factor.
        """
        height, width = pixels.shape[-2:]
        assert height % self.factor == 0 and width % self.factor == 0, (height, width)
        encoded = self.vae.encoder(pixels)
        return encoded if self.vae.quant_conv is None else self.vae.quant_conv(encoded)

    def sample(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Latents (B, C, h, w), scaled: (μ + σ·noise) · scaling_factor with noise ~ N(0, I)."""
        mean, logvar = moments.chunk(2, dim=1)
        std = torch.exp(0.5 * logvar.clamp(*LOGVAR_RANGE))
        return (mean + std * noise) * self.scaling_factor

    def mode(self, moments: Tensor) -> Tensor:
        """The most likely latents (B, C, h, w), scaled: μ · scaling_factor."""
        return moments.chunk(2, dim=1)[0] * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), about [-1, 1] and not clamped, from scaled latents (B, C, h, w)."""
        raw = latents / self.scaling_factor
        self._decoder.look()
        prepared = self._decoder.form()
        if prepared is not None:
            return prepared(raw)
        if self.vae.post_quant_conv is not None:
            raw = self.vae.post_quant_conv(raw)
        found: Tensor = self.vae.decoder(raw)
        return found


@torch.no_grad()
def fold_latent_statistics(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Make raw latents have mean 0 and standard deviation 1 per channel, exactly, in place.

    mean, std: (C,), measured on raw latents (posterior samples before any scaling).
    The encoder's last 1x1 convolution then gives (z - mean) / std and the decoder's first undoes
    it, so reconstructions are unchanged; `scaling_factor` becomes 1 and `shift_factor` stays
    unset, because diffusers' Stable Diffusion pipeline knows only the former.
    """
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant is not None and post is not None, "needs quant_conv and post_quant_conv"
    channels = int(vae.config.latent_channels)
    assert mean.shape == std.shape == (channels,), (mean.shape, std.shape)
    assert bool((std > 0).all()), "standard deviations must be positive"
    m, s = mean.double().to(quant.weight.device), std.double().to(quant.weight.device)
    weight, bias = quant.weight.double(), quant.bias.double()
    weight[:channels] /= s[:, None, None, None]
    bias[:channels] = (bias[:channels] - m) / s
    bias[channels:] -= 2.0 * s.log()
    quant.weight.copy_(weight)
    quant.bias.copy_(bias)
    weight, bias = post.weight.double(), post.bias.double()
    post.bias.copy_(bias + torch.einsum("oihw,i->o", weight, m))
    post.weight.copy_(weight * s[None, :, None, None])
    vae.register_to_config(scaling_factor=1.0, shift_factor=None)
