"""What Python may hand over: contexts, timesteps, latents from a callback; blends of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file

from latentdiff.conditioning.text import encode, tokenize
from latentdiff.errors import UserError
from latentdiff.pipelines import Blend, Embeds, Request, TextToImagePipeline
from latentdiff.pipelines.explain import explain
from latentdiff.pipelines.from_pictures.blending import slerp

FEW: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0, "seed": 3}


@pytest.fixture(scope="module")
def pipe() -> TextToImagePipeline:
    return TextToImagePipeline(tiny.tiny())


def context(pipe: TextToImagePipeline, text: str) -> torch.Tensor:
    with torch.no_grad():
        ids = tokenize(pipe.bundle.tokenizer, [text]).input_ids
        return encode(pipe.bundle.text_encoder, ids)


def test_given_contexts_stand_for_their_prompts(pipe: TextToImagePipeline) -> None:
    said = pipe("a cat", negative_prompt="a dog", **FEW)
    given = pipe(
        prompt_embeds=context(pipe, "a cat"),
        negative_prompt_embeds=context(pipe, "a dog"),
        **FEW,
    )
    assert torch.allclose(given.latents, said.latents, atol=1e-5)
    assert given.recipe.to_json()["request"]["given"] == [
        "prompt_embeds",
        "negative_prompt_embeds",
    ]
    with pytest.raises(UserError, match="negative_prompt_embeds for guidance"):
        pipe(prompt_embeds=context(pipe, "a cat"), **FEW)
    with pytest.raises(UserError, match="prompt_embeds has shape"):
        pipe(prompt_embeds=torch.zeros(5, 3), **FEW | {"guidance_scale": 1.0})


def test_contexts_of_a_file_stand_for_their_prompts_and_come_with_the_recipe(
    pipe: TextToImagePipeline, tmp_path: Path
) -> None:
    place = tmp_path / "contexts.safetensors"
    contexts = {
        "prompt_embeds": pipe.encode("a (cat:1.2)")[None],
        "negative_prompt_embeds": pipe.encode("a dog").contiguous(),
    }
    save_file(contexts, place)
    request = Request(prompt="", embeds=Embeds(file=str(place)), **FEW)
    (drawn,) = pipe.draw([request])
    said = pipe("a (cat:1.2)", negative_prompt="a dog", **FEW)
    assert torch.allclose(drawn.latents, said.latents[0], atol=1e-5)
    again = Request.from_json(drawn.request.to_json())
    assert again.embeds is not None and len(again.embeds.file_sha256) == 64
    assert torch.equal(next(pipe.draw([again])).latents, drawn.latents)
    with pytest.raises(UserError, match="no words to explain"):
        explain(pipe, request)
    save_file({"prompt_embeds": contexts["prompt_embeds"]}, place)
    with pytest.raises(UserError, match="is not the file that was drawn from"):
        pipe.resolve([again])
    with pytest.raises(UserError, match="negative_prompt_embeds for guidance"):
        pipe.resolve([request])
    for tensors, said_of in (
        ({"cat": torch.zeros(2, 3)}, "holds cat; expected prompt_embeds"),
        ({"prompt_embeds": torch.zeros(2, 2, 3)}, r"shape \(2, 2, 3\)"),
        ({"prompt_embeds": torch.zeros(5, 3)}, r"shape \(5, 3\); expected \(5, 32\)"),
    ):
        save_file(tensors, place)
        with pytest.raises(UserError, match=said_of):
            pipe.resolve([Request(prompt="", embeds=Embeds(file=str(place)), guidance_scale=1.0)])


def test_timesteps_are_walked_as_they_are_listed(pipe: TextToImagePipeline) -> None:
    walked: list[int | float] = []
    options = FEW | {"num_inference_steps": None}
    result = pipe(
        "a cat",
        timesteps=[900, 500, 20],
        on_step=lambda step: walked.append(step.t),  # type: ignore[func-returns-value]
        **options,
    )
    assert walked == [900, 500, 20]
    assert result.recipe.request.num_inference_steps == 3
    again = Request.from_json(result.recipe.request.to_json())
    assert torch.equal(next(pipe.draw([again])).latents, result.latents[0])
    with pytest.raises(UserError, match="4 steps and 3 timesteps"):
        pipe("a cat", timesteps=[900, 500, 20], **FEW)


def test_latents_that_a_callback_returns_go_on(pipe: TextToImagePipeline) -> None:
    seen = []

    def shift(step: Any) -> torch.Tensor | None:
        seen.append(step.latents.clone())
        return step.latents + 1.0 if step.index == 1 else None

    changed = pipe("a cat", on_step=shift, **FEW)
    plain = list(pipe.stream(Request(prompt="a cat", **FEW)))
    assert torch.equal(seen[1], plain[1].latents)
    assert not torch.allclose(seen[2], plain[2].latents, atol=0.1)
    last = pipe("a cat", on_step=lambda step: torch.zeros_like(step.latents), **FEW)
    assert not last.latents.any()
    assert not torch.equal(changed.latents, plain[-1].latents)
    with pytest.raises(UserError, match="the callback gave latents of shape"):
        pipe("a cat", on_step=lambda step: step.latents[:, :1], **FEW)


def test_a_callback_keeps_its_gradients(pipe: TextToImagePipeline) -> None:
    def pull(step: Any) -> torch.Tensor:
        x = step.latents.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(x.square().sum(), x)
        return step.latents - 0.1 * gradient

    assert bool(torch.isfinite(pipe("a cat", on_step=pull, **FEW).latents).all())


def test_a_blend_begins_at_the_request_and_ends_at_the_other(pipe: TextToImagePipeline) -> None:
    def at(amount: float) -> torch.Tensor:
        blend = Blend(seed=8, prompt="a dog", amount=amount)
        return pipe("a cat", blend=blend, **FEW).latents

    here, there = pipe("a cat", **FEW).latents, pipe("a dog", **FEW | {"seed": 8}).latents
    assert torch.equal(at(0.0), here)
    assert torch.allclose(at(1.0), there, atol=1e-5)
    middle = at(0.5)
    assert not torch.allclose(middle, here, atol=0.1)
    assert not torch.allclose(middle, there, atol=0.1)


def test_frames_of_one_batch_equal_those_drawn_alone(pipe: TextToImagePipeline) -> None:
    requests = [
        Request(prompt="a cat", blend=Blend(seed=8, prompt="a dog", amount=k / 3), **FEW)
        for k in range(3)
    ]
    together = list(pipe.draw(requests, batch_size=3))
    for picture, request in zip(together, requests, strict=True):
        (alone,) = pipe.draw([request])
        assert torch.allclose(picture.latents, alone.latents, rtol=1e-4, atol=1e-3)


def test_noise_on_the_way_between_seeds_stays_unit_noise() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 64, 64, generator=draw) for _ in range(2))
    for amount in (0.1, 0.5, 0.9):
        assert abs(float(slerp(a, b, amount).std()) - 1.0) < 0.02
    assert float(torch.lerp(a, b, 0.5).std()) < 0.75  # what a mean would do
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
