"""Presets: sizes that fit together, and residual branches that start as nothing."""

import pytest
import torch
from torch import nn

from latentdiff.errors import UserError
from latentdiff.models import presets


@pytest.fixture(scope="module", params=["snowglobe", "tiny"])
def preset(request: pytest.FixtureRequest) -> str:
    return request.param


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'snowglobe'"):
        presets.get("snowglob")


@torch.no_grad()
def test_the_networks_of_a_preset_fit_together(preset: str) -> None:
    p = presets.get(preset)
    assert p.latent_size * p.factor == p.picture_size
    vae = presets.build_vae(preset).eval()
    unet = presets.build_unet(preset).eval()
    pixels = torch.zeros(1, 3, p.picture_size, p.picture_size)
    latents = vae.encode(pixels).latent_dist.mean
    assert latents.shape == (1, p.latent_channels, p.latent_size, p.latent_size)
    context = torch.zeros(1, p.max_length, p.text_width)
    assert unet(latents, 0, encoder_hidden_states=context).sample.shape == latents.shape
    clip = presets.build_clip(preset, 600, bos_token_id=598, eos_token_id=599)
    assert clip.config.text_config.hidden_size == p.text_width
    assert clip.config.text_config.pad_token_id == 599
    ids = torch.full((1, p.max_length), 599)
    assert clip(input_ids=ids, pixel_values=pixels).logits_per_image.shape == (1, 1)


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_heads_are_counted_not_measured(name: str) -> None:
    """`attention_head_dim` of diffusers' U-Net is the number of heads."""
    p = presets.get(name)
    assert presets.unet_config(name)["attention_head_dim"] == p.unet_heads
    attended = [c for c, on in zip(p.unet_channels, p.unet_attention, strict=True) if on]
    assert attended
    assert all(channels % p.unet_heads == 0 for channels in attended)


@torch.no_grad()
def test_zero_initialised_blocks_start_as_the_identity() -> None:
    from diffusers.models.attention_processor import Attention
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    torch.manual_seed(0)
    unet = presets.build_unet("tiny").eval()
    vae = AutoencoderKL(**presets.vae_config("tiny") | {"mid_block_add_attention": True}).eval()
    assert presets.zero_init_residuals(vae) > 0
    context, seen = torch.randn(1, 24, 32), set()
    for network in (unet, vae):
        for block in network.modules():
            if isinstance(block, ResnetBlock2D):
                x, time = torch.randn(1, block.in_channels, 8, 8), None
                if block.time_emb_proj is not None:
                    time = torch.randn(1, block.time_emb_proj.in_features)
                expected = x if block.conv_shortcut is None else block.conv_shortcut(x)
                torch.testing.assert_close(block(x, time), expected)
            elif isinstance(block, Transformer2DModel):
                x = torch.randn(1, block.in_channels, 8, 8)
                (out,) = block(x, encoder_hidden_states=context, return_dict=False)
                torch.testing.assert_close(out, x)
            elif isinstance(block, Attention) and network is vae:
                x = torch.randn(1, block.to_q.in_features, 8, 8)
                torch.testing.assert_close(block(x), x)
            else:
                continue
            seen.add(type(block))
    assert seen == {ResnetBlock2D, Transformer2DModel, Attention}


def test_zero_initialisation_leaves_a_gradient_for_every_branch() -> None:
    """Two zero layers in a row would never wake up."""
    torch.manual_seed(0)
    unet = presets.build_unet("tiny")
    for parameter in unet.conv_out.parameters():
        nn.init.normal_(parameter)
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 24, 32)
    unet(x, torch.tensor([3, 900]), encoder_hidden_states=context).sample.square().mean().backward()
    for name, parameter in unet.named_parameters():
        if name.endswith(("conv2.weight", "proj_out.weight")):
            assert parameter.grad is not None
            assert float(parameter.grad.abs().max()) > 0, name


def test_without_zero_initialisation_nothing_is_zeroed() -> None:
    unet = presets.build_unet("tiny", zero_init=False)
    weights = [p for name, p in unet.named_parameters() if name.endswith("conv2.weight")]
    assert all(float(weight.detach().abs().max()) > 0 for weight in weights)
