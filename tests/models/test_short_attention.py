"""Attention over few keys: the same numbers, by plain products, where a CPU trains in bfloat16."""

import pytest
import tiny
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from latentdiff.models import short_attention
from latentdiff.models.prepared.fits import unet_fits
from latentdiff.models.short_attention import MOST_KEYS, ShortAttention, attend_shortly


def attention(context: int | None) -> Attention:
    torch.manual_seed(0)
    return Attention(16, cross_attention_dim=context, heads=2, dim_head=8)


def fused_calls(cells: int, monkeypatch, *, bfloat16: bool) -> int:
    calls = []
    fused = AttnProcessor2_0.__call__
    monkeypatch.setattr(
        AttnProcessor2_0, "__call__", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )
    layer = attention(None)
    layer.set_processor(ShortAttention())
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        layer(torch.randn(1, cells, 16))
    return len(calls)


def test_few_keys_are_multiplied_plainly_in_bfloat16_only_and_many_keys_never(monkeypatch):
    assert fused_calls(MOST_KEYS, monkeypatch, bfloat16=True) == 0
    assert fused_calls(MOST_KEYS + 1, monkeypatch, bfloat16=True) == 1
    assert fused_calls(MOST_KEYS, monkeypatch, bfloat16=False) == 1


@pytest.mark.parametrize("masked", [False, True])
def test_the_plain_way_gives_what_the_fused_one_gives_and_the_same_gradients(masked):
    x, context = torch.randn(2, 12, 16), torch.randn(2, 5, 24)
    mask = torch.zeros(2, 1, 5)
    mask[1, :, 3:] = -1e4
    found = []
    for processor in (AttnProcessor2_0(), ShortAttention()):
        layer, given = attention(24), x.clone().requires_grad_()
        layer.set_processor(processor)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(given, context, attention_mask=mask if masked else None)
        y.float().square().sum().backward()
        found.append((y.float().detach(), given.grad, layer.to_k.weight.grad))
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(plain, fused, rtol=0.03, atol=0.03 * float(fused.abs().max()))


@pytest.mark.parametrize("fast", [False, True])
def test_a_unet_attends_shortly_where_the_processor_multiplies_bfloat16(fast, monkeypatch):
    monkeypatch.setattr(short_attention, "multiplies_bfloat16", lambda device: fast)
    unet = tiny.tiny().unet
    attend_shortly(unet)
    kinds = {type(processor) for processor in unet.attn_processors.values()}
    assert kinds == {ShortAttention if fast else AttnProcessor2_0}
    assert unet_fits(unet.eval())  # sample sheets are drawn as fast as before


def test_a_unet_with_attention_of_its_own_keeps_it(monkeypatch):
    monkeypatch.setattr(short_attention, "multiplies_bfloat16", lambda device: True)
    unet = tiny.tiny().unet
    name, *_ = unet.attn_processors
    own = type("Own", (AttnProcessor2_0,), {})()
    unet.set_attn_processor({**unet.attn_processors, name: own})
    attend_shortly(unet)
    assert unet.attn_processors[name] is own
