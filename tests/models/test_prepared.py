"""Prepared networks compute what diffusers' own forward computes, and notice every change."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from latentdiff.conditioning.guidance import Guidance, GuidedDenoiser
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.bundle import Bundle
from latentdiff.models.denoiser import Denoiser, ready_unet
from latentdiff.models.lora.layers import LoraConfig, add_lora
from latentdiff.models.prepared import blocks, layers
from latentdiff.models.prepared.fits import decoder_fits, unet_fits
from latentdiff.models.prepared.unet import PreparedUnet

KINDS = {
    "pooled text, scale and shift": tiny.tiny,
    "Stable Diffusion 1": tiny.stable_diffusion_1,
    "Stable Diffusion 2": tiny.stable_diffusion_2,
}


def drawn(bundle: Bundle, rows: int, *, side: int = 8, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """x (rows, C, side, side), and a context of twice as many rows."""
    generator = torch.Generator().manual_seed(seed)
    config = bundle.unet.config
    x = torch.randn(rows, config.in_channels, side, side, generator=generator)
    length, width = bundle.tokenizer.model_max_length, config.cross_attention_dim
    return x, torch.randn(2 * rows, length, width, generator=generator)


def own(unet: Any, x: torch.Tensor, t: float, context: torch.Tensor, mask: Any = None) -> Any:
    """diffusers' forward, x's rows repeated for the context."""
    shown = x.repeat(len(context) // len(x), 1, 1, 1)
    with torch.no_grad():
        return unet(
            shown,
            torch.tensor(t),
            encoder_hidden_states=context,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    scale = float(other.abs().max())
    torch.testing.assert_close(one, other, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [8, 9])
def test_the_prepared_unet_gives_what_the_unet_gives(kind: str, side: int) -> None:
    bundle = KINDS[kind]()
    assert unet_fits(bundle.unet)
    prepared = PreparedUnet(bundle.unet)
    for rows, t in ((1, 500.0), (2, 3.0), (1, 500.0)):
        x, context = drawn(bundle, rows, side=side, seed=rows)
        close(prepared(x, t, context), own(bundle.unet, x, t, context))


@pytest.mark.parametrize("rows", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_absorbing_a_context_into_the_weights_around_it_changes_nothing(
    kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = KINDS[kind]()
    monkeypatch.setattr(blocks, "ABSORBED_ROWS", rows)
    x, context = drawn(bundle, 1)
    context = context[:, :5]
    prepared = PreparedUnet(bundle.unet)
    close(prepared(x, 5.0, context), own(bundle.unet, x, 5.0, context))
    ((_, _, _, told, _),) = prepared._told.values()
    assert (3 in {pair[0].ndim for pair in told.keys}) is bool(rows)


@pytest.mark.parametrize("cells", [0, 10_000])
def test_convolutions_by_products_are_those_by_kernels(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny.stable_diffusion_1()
    monkeypatch.setattr(layers, "FEW_CELLS", cells)
    x, context = drawn(bundle, 2)
    prepared = PreparedUnet(bundle.unet)
    close(prepared(x, 5.0, context), own(bundle.unet, x, 5.0, context))


def test_a_mask_hides_the_same_tokens() -> None:
    bundle = tiny.stable_diffusion_1()
    x, context = drawn(bundle, 1)
    mask = torch.ones(context.shape[:2], dtype=torch.bool)
    mask[0, 40:] = False
    prepared = PreparedUnet(bundle.unet)
    close(prepared(x, 10.0, context, mask), own(bundle.unet, x, 10.0, context, mask))
    close(prepared(x, 10.0, context), own(bundle.unet, x, 10.0, context))


@pytest.mark.parametrize("kind", KINDS)
def test_keys_and_values_that_are_kept_are_those_made_anew_bit_by_bit(kind: str) -> None:
    bundle = KINDS[kind]()
    x, context = drawn(bundle, 1)
    kept = PreparedUnet(bundle.unet)
    kept(x, 800.0, context)
    again, anew = kept(x, 200.0, context), PreparedUnet(bundle.unet)(x, 200.0, context.clone())
    assert torch.equal(again, anew)


def test_a_context_that_is_changed_in_place_is_told_anew() -> None:
    bundle = tiny.tiny()
    x, context = drawn(bundle, 1)
    prepared = PreparedUnet(bundle.unet)
    before = prepared(x, 200.0, context)
    context += 1.0
    after = prepared(x, 200.0, context)
    assert not torch.equal(before, after)
    assert torch.equal(after, PreparedUnet(bundle.unet)(x, 200.0, context))


def test_a_context_made_under_inference_mode_gives_the_same_and_is_told_anew_when_changed() -> None:
    bundle = tiny.tiny()
    x, context = drawn(bundle, 1)
    expected = [PreparedUnet(bundle.unet)(x, 500.0, one) for one in (context, context + 1.0)]
    prepared = PreparedUnet(bundle.unet)
    with torch.inference_mode():
        inside = context.clone()
        assert torch.equal(prepared(x, 500.0, inside), expected[0])
        inside += 1.0
        assert torch.equal(prepared(x, 500.0, inside), expected[1])
    # What was made inside serves outside.
    assert torch.equal(prepared(x, 500.0, inside), expected[1])
    assert torch.equal(prepared(x, 500.0, context), expected[0])


def test_the_table_of_timesteps_holds_each_blocks_own_projection() -> None:
    unet = tiny.stable_diffusion_1().unet
    prepared = PreparedUnet(unet)
    walked = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    resnets = [resnet for block in walked for resnet in block.resnets]
    with torch.no_grad():
        for t in (0.0, 999.0, 0.0):
            told = unet.time_proj(torch.tensor([t]))
            embedding = unet.time_embedding(told)
            # With each first convolution's own bias, whose place they take.
            expected = [
                r.time_emb_proj(nn.functional.silu(embedding)) + r.conv1.bias for r in resnets
            ]
            torch.testing.assert_close(
                prepared._time(t), torch.cat(expected, dim=1), rtol=0, atol=1e-6
            )


def test_both_halves_of_guidance_come_from_one_row() -> None:
    bundle = tiny.stable_diffusion_1()
    x, context = drawn(bundle, 2)
    denoiser = Denoiser(bundle.unet, "epsilon")
    shown: list[int] = []

    class Plain:
        def __call__(self, x_t: Any, t: Any, context: Any) -> torch.Tensor:
            shown.append(len(x_t))
            return denoiser(x_t, t, context)

    with torch.no_grad():
        shared = GuidedDenoiser(denoiser, Guidance(scale=3.0))(x, 100, context)
        whole = GuidedDenoiser(Plain(), Guidance(scale=3.0))(x, 100, context)
    assert shown == [4]
    close(shared, whole)


def test_the_networks_own_forward_answers_with_gradients_and_with_a_timestep_each() -> None:
    bundle = tiny.tiny()
    x, context = drawn(bundle, 2)
    denoiser = Denoiser(bundle.unet, "epsilon")
    x.requires_grad_(True)
    denoiser(x, 5, context).sum().backward()  # a prepared form has no gradients
    assert x.grad is not None
    with torch.no_grad():
        times = torch.tensor([1, 900])
        found = denoiser(x, times, context)
        expected = bundle.unet(
            x.repeat(2, 1, 1, 1), times.repeat(2), encoder_hidden_states=context
        ).sample
    assert torch.equal(found, expected)


@pytest.mark.parametrize("change", ["in place", "another tensor", "another set"])
def test_other_weights_are_noticed(change: str) -> None:
    unet = copy.deepcopy(tiny.tiny().unet)
    x, context = drawn(tiny.tiny(), 1)
    ready = ready_unet(unet)
    with torch.no_grad():
        before = Denoiser(ready, "epsilon")(x, 5, context)
        if change == "in place":
            unet.conv_out.weight.mul_(2.0)
        elif change == "another tensor":
            unet.conv_out.weight.data = 2.0 * unet.conv_out.weight.data
        else:
            state = {name: 2.0 * value for name, value in unet.state_dict().items()}
            unet.load_state_dict(state, assign=True)
        after = Denoiser(ready, "epsilon")(x, 5, context)
    assert not torch.equal(before, after)
    close(after, own(unet, x, 5.0, context))


def test_what_someone_put_into_a_network_is_left_to_the_network() -> None:
    bundle = tiny.stable_diffusion_1()
    x, context = drawn(bundle, 1)
    unet = copy.deepcopy(bundle.unet)
    denoiser = Denoiser(unet, "epsilon")
    with torch.no_grad():
        denoiser(x, 5, context)
        seen: list[int] = []
        handle = unet.mid_block.register_forward_hook(lambda *a: seen.append(1))
        Denoiser(denoiser.ready, "epsilon")(x, 5, context)
        assert seen == [1]
        handle.remove()
        assert unet_fits(unet)
    for up in unet.up_blocks:
        up.s1, up.s2, up.b1, up.b2 = 0.9, 0.2, 1.2, 1.4  # FreeU
    assert not unet_fits(unet)
    unet = copy.deepcopy(bundle.unet)
    unet.fuse_qkv_projections()
    assert not unet_fits(unet)
    unet.unfuse_qkv_projections()
    assert not unet_fits(unet.train())


@pytest.mark.parametrize("targets", ["attention", "attention+ff", "all"])
def test_a_lora_that_is_being_trained_is_left_to_the_network_whatever_it_changes(targets) -> None:
    unet = copy.deepcopy(tiny.tiny().unet).eval()
    assert unet_fits(unet)
    add_lora(unet, None, LoraConfig(targets=targets), seed=0)
    assert not unet_fits(unet.eval())


@pytest.mark.parametrize("kind", KINDS)
def test_the_prepared_decoder_gives_what_the_decoder_gives(kind: str) -> None:
    vae = KINDS[kind]().vae
    assert decoder_fits(vae)
    autoencoder = Autoencoder(vae)
    for rows, side in ((1, 8), (3, 16)):
        z = torch.randn(rows, vae.config.latent_channels, side, side)
        with torch.no_grad():
            found = autoencoder.decode(z)
            raw = z / autoencoder.scaling_factor
            expected = vae.decoder(vae.post_quant_conv(raw))
        close(found, expected)


@pytest.mark.parametrize("side", [4, 16])
def test_a_doubling_by_quarters_is_the_convolution_of_the_doubled_sample(side: int) -> None:
    conv = nn.Conv2d(6, 10, 3, padding=1)
    x = torch.randn(2, 6, side, side).contiguous(memory_format=torch.channels_last)
    block = nn.Module()
    block.conv = conv
    with torch.no_grad():
        expected = conv(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        found = blocks.Upsample(block)(x, (2 * side, 2 * side))
    close(found, expected)


def test_weights_stay_unpacked_where_there_is_no_memory_for_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = tiny.stable_diffusion_1()
    x, context = drawn(bundle, 1)
    packed = PreparedUnet(bundle.unet)(x, 5.0, context)
    monkeypatch.setattr(layers, "SPARE_BYTES", 2**60)
    prepared = PreparedUnet(bundle.unet)
    plain = prepared(x, 5.0, context)
    assert prepared.enter._packed is None
    close(plain, packed)


def test_bfloat16_weights_are_prepared_as_well() -> None:
    bundle = tiny.stable_diffusion_1()
    unet = copy.deepcopy(bundle.unet).to(torch.bfloat16)
    x, context = drawn(bundle, 1)
    x, context = x.bfloat16(), context.bfloat16()
    found, expected = PreparedUnet(unet)(x, 5.0, context), own(unet, x, 5.0, context)
    error = (found.float() - expected.float()).square().mean()
    assert float(error) < 1e-3 * float(expected.float().square().mean())
