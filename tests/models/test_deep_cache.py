"""A deep cache takes over what its U-Net's inner levels gave, every other step or so."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.models.denoiser import Denoiser
from latentdiff.models.prepared.deep_cache import DeepCache
from latentdiff.models.prepared.unet import PreparedUnet
from latentdiff.pipelines import TextToImagePipeline


def walked(interval: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, list[int]]:
    """The latents of a picture in five steps, and at which of them the inner levels were asked."""
    asked, steps = [], []
    below = PreparedUnet._below

    def counted(self: PreparedUnet, *inputs: object) -> Tensor:
        asked.append(len(steps))
        return below(self, *inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(PreparedUnet, "_below", counted)
    drawn = TextToImagePipeline(tiny.stable_diffusion_1())(
        "a",
        seed=1,
        num_inference_steps=5,
        scheduler="ddim",
        deep_cache_interval=interval,
        on_step=steps.append,
    )
    monkeypatch.undo()
    return drawn.latents, asked


def test_an_interval_of_one_draws_the_exact_picture_bit_by_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = TextToImagePipeline(tiny.stable_diffusion_1())(
        "a", seed=1, num_inference_steps=5, scheduler="ddim"
    )
    found, asked = walked(1, monkeypatch)
    assert asked == [0, 1, 2, 3, 4]
    assert torch.equal(found, exact.latents)


@pytest.mark.parametrize(("interval", "whole"), [(2, [0, 2, 4]), (3, [0, 3]), (9, [0])])
def test_of_every_interval_of_steps_the_first_goes_through_the_whole_network(
    interval: int, whole: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _ = walked(1, monkeypatch)
    found, asked = walked(interval, monkeypatch)
    assert asked == whole
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0, atol=float(exact.std()))


@torch.no_grad()
def test_kept_features_are_those_of_the_same_question_and_of_no_other_shape() -> None:
    bundle = tiny.stable_diffusion_1()
    prepared, deep = PreparedUnet(bundle.unet), DeepCache(3)
    config = bundle.unet.config
    x = torch.randn(1, config.in_channels, 8, 8)
    context = torch.randn(2, bundle.tokenizer.model_max_length, config.cross_attention_dim)
    exact = prepared(x, 300.0, context)
    assert torch.equal(prepared(x, 300.0, context, deep=deep), exact)
    assert torch.equal(prepared(x, 300.0, context, deep=deep), exact)
    one = context[1:]
    assert torch.equal(prepared(x, 300.0, one, deep=deep), prepared(x, 300.0, one))
    wide = x.repeat(1, 1, 1, 2)
    assert torch.equal(prepared(wide, 9.0, one, deep=deep), prepared(wide, 9.0, one))


def test_a_network_that_only_answers_itself_keeps_nothing_and_says_so() -> None:
    bundle = tiny.stable_diffusion_1()
    handle = bundle.unet.mid_block.register_forward_hook(lambda *a: None)
    try:
        denoiser = Denoiser(bundle.unet, "epsilon", deep_cache_interval=2)
        x = torch.randn(1, bundle.unet.config.in_channels, 8, 8)
        context = torch.randn(1, 4, bundle.unet.config.cross_attention_dim)
        with torch.no_grad(), pytest.raises(UserError, match="a deep cache is for U-Nets of"):
            denoiser(x, 5, context)
    finally:
        handle.remove()


def test_less_than_one_step_of_an_interval_is_refused() -> None:
    pipeline = TextToImagePipeline(tiny.stable_diffusion_1())
    with pytest.raises(UserError, match="deep_cache_interval 0 is out of range"):
        pipeline("a", deep_cache_interval=0)
