"""Heat maps of words: they add up, they leave the picture alone, they fit prompts of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from latentdiff.models.attention import AttentionRecorder, probabilities
from latentdiff.pipelines import Request, TextToImagePipeline
from latentdiff.pipelines.explain import Explained, WordMap, explain, overlay

FEW: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0, "seed": 1}


@pytest.fixture(scope="module")
def pipe() -> TextToImagePipeline:
    return TextToImagePipeline(tiny.tiny())


def test_an_explained_picture_is_the_picture_bit_by_bit(pipe: TextToImagePipeline) -> None:
    found = explain(pipe, Request(prompt="a cat in the snow", **FEW))
    (alone,) = pipe.draw([Request(prompt="a cat in the snow", **FEW)])
    assert torch.equal(found.picture.latents, alone.latents)
    assert [word.word for word in found.words] == ["a", "cat", "in", "the", "snow"]
    for word in found.words:
        assert word.heat.shape == (8, 8)
        assert 0.0 <= float(word.heat.min()) <= float(word.heat.max()) <= 1.0


@torch.no_grad()
def test_what_is_recorded_is_what_the_network_attends_to() -> None:
    unet = tiny.tiny().unet
    layer = next(m for n, m in unet.named_modules() if n.endswith("attn2"))
    hidden = torch.randn(2, 16, layer.to_q.in_features)
    context = torch.randn(2, 5, layer.to_k.in_features)
    shares = probabilities(layer, hidden, context, None)
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(2, 16))
    if layer.heads == 1:
        out = layer.to_out[0](shares @ layer.to_v(context))
        torch.testing.assert_close(out, layer(hidden, encoder_hidden_states=context))
    one = probabilities(layer, hidden, context[:, :1], None)
    torch.testing.assert_close(one, torch.ones(2, 16, 1))


def test_the_attention_of_a_cell_adds_up_to_one_whatever_the_size() -> None:
    bundle = tiny.tiny()
    with AttentionRecorder(bundle.unet, (8, 12)) as recorder, torch.no_grad():
        context = torch.randn(2, 24, bundle.unet.config.cross_attention_dim)
        bundle.unet(torch.randn(2, 4, 8, 12), 5, encoder_hidden_states=context)
        maps = recorder.take()
    assert maps.shape == (2, 24, 8, 12)
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(2, 8, 12))
    assert not any(module._forward_pre_hooks for module in recorder.layers)


def test_parts_schedules_and_weights_have_maps_of_their_words(pipe: TextToImagePipeline) -> None:
    prompt = "a (cat:1.3) [in:on:1], the cat AND a dog"
    found = explain(pipe, Request(prompt=prompt, height=16, width=48, **FEW))
    words = [(word.part, word.word, word.weight) for word in found.words]
    assert words == [
        *((0, "a", 1.0), (0, "cat", 1.3), (0, "in", 1.0), (0, "the", 1.0), (0, "cat", 1.0)),
        *((1, "a", 1.0), (1, "dog", 1.0), (0, "on", 1.0)),
    ]
    assert {word.heat.shape for word in found.words} == {(4, 12)}
    sheet, narrow = found.sheet(), found.sheet(columns=2)
    assert (sheet.width // 268, narrow.width // 268) == (5, 2)  # of nine cells
    assert sheet.width > sheet.height


def test_without_guidance_the_only_rows_are_the_prompt_s(pipe: TextToImagePipeline) -> None:
    found = explain(pipe, Request(prompt="a cat", **{**FEW, "guidance_scale": 1.0}))
    assert [word.word for word in found.words] == ["a", "cat"]


def test_words_share_a_scale_so_that_one_without_a_place_stays_grey(
    pipe: TextToImagePipeline,
) -> None:
    (picture,) = pipe.draw([Request(prompt="a cat", **FEW)])
    heat = np.linspace(0.1, 0.2, 16, dtype=np.float32).reshape(4, 4)
    strong, weak = (
        WordMap(word=word, weight=1.0, part=0, heat=values)
        for word, values in (("cat", heat), ("a", 0.1 + heat / 1000))
    )
    found = Explained(picture=picture, words=(strong, weak))

    def colour(word: WordMap) -> float:
        shown = np.asarray(found.shown(word), dtype=float)
        return float(np.ptp(shown, axis=2).max())

    assert colour(weak) < 30 < 100 < colour(strong)


def test_the_hottest_cell_is_where_the_overlay_is_brightest() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 0.2
    shown = np.asarray(overlay(Image.new("RGB", (32, 32), "grey"), heat)).sum(axis=2)
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert row < 8
    assert column >= 24
