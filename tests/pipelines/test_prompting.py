"""Pictures that obey the prompt language: composition, schedules, choices, and plain prompts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny
import torch

from latentdiff.conditioning.guidance import GuidedDenoiser
from latentdiff.conditioning.settings import Guidance
from latentdiff.conditioning.text import encode, tokenize
from latentdiff.errors import UserError
from latentdiff.models.denoiser import Denoiser
from latentdiff.pipelines import Recipe, Request, TextToImagePipeline
from latentdiff.sampling import SeededNoise, denoise
from latentdiff.schedulers import interop

FEW: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0, "seed": 1}


@pytest.fixture(scope="module")
def pipe() -> TextToImagePipeline:
    return TextToImagePipeline(tiny.tiny())


def draw(pipe: TextToImagePipeline, prompt: str, **changes: Any) -> torch.Tensor:
    return pipe(prompt, **{**FEW, **changes}).latents


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Up to the rounding of another batch shape, which the tiny network enlarges."""
    return float((one - other).abs().max()) <= 1e-3 * max(1.0, float(other.abs().max()))


@torch.no_grad()
def by_hand(prompts: list[str]) -> torch.Tensor:
    """The walk of one picture, told prompts[step % n] at each step, without the language."""
    bundle = tiny.tiny()
    scheduler = interop.build(None, bundle.scheduler_config, 4)
    network = Denoiser(bundle.unet, bundle.scheduler_config.prediction_type)
    denoiser = GuidedDenoiser(network, Guidance(scale=2.0))
    ids = tokenize(bundle.tokenizer, ["", *prompts]).input_ids
    context = encode(bundle.text_encoder, ids)
    noise = SeededNoise([1], (4, 8, 8), bundle.unet.device)
    *_, last = denoise(
        denoiser,
        scheduler,
        noise.draw() * scheduler.init_noise_sigma,
        context=lambda index, total: context[[0, 1 + index % len(prompts)]],
        noise=noise.draw,
    )
    return last.x


def test_a_prompt_without_brackets_is_drawn_as_it_ever_was(pipe: TextToImagePipeline) -> None:
    assert torch.equal(draw(pipe, "a cat in the snow"), by_hand(["a cat in the snow"]))
    for prompt in ("a cat, in the snow; at 10:30 - half/price", "cat | dog: 5"):
        plain = draw(pipe, prompt, prompt_syntax="plain")
        assert torch.equal(draw(pipe, prompt), plain)


def test_plain_brackets_are_the_escaped_ones(pipe: TextToImagePipeline) -> None:
    plain = draw(pipe, "a cat (in the snow)", prompt_syntax="plain")
    assert torch.equal(draw(pipe, r"a cat \(in the snow\)"), plain)
    assert not torch.equal(draw(pipe, "a cat (in the snow)"), plain)


def test_alternation_tells_the_network_another_text_at_every_step(
    pipe: TextToImagePipeline,
) -> None:
    assert torch.equal(draw(pipe, "a [cat|dog]"), by_hand(["a cat", "a dog"]))
    scheduled = by_hand(["a cat", "a cat", "a cat", "a dog"])
    assert near(draw(pipe, "a [cat:dog:0.75]"), scheduled)


def test_heun_s_longer_walk_changes_at_the_same_share_of_it(pipe: TextToImagePipeline) -> None:
    options = {"scheduler": "heun"}
    before = draw(pipe, "a [cat:dog:0.99]", **options)
    assert not torch.equal(before, draw(pipe, "a cat", **options))
    assert torch.equal(draw(pipe, "a [cat:dog:4]", **options), draw(pipe, "a cat", **options))
    assert torch.equal(draw(pipe, "a [cat:dog:0]", **options), draw(pipe, "a dog", **options))


def test_and_adds_the_pushes_of_its_parts(pipe: TextToImagePipeline) -> None:
    one = draw(pipe, "a cat")
    assert near(draw(pipe, "a cat :0.5 AND a cat :0.5"), one)
    assert near(draw(pipe, "a cat AND a dog :0"), one)
    assert near(draw(pipe, "a cat :1.5 AND a dog :0"), draw(pipe, "a cat", guidance_scale=3.0))
    both = draw(pipe, "a cat AND a dog")
    assert near(both, draw(pipe, "a dog AND a cat"))
    assert float((both - one).abs().max()) > 0.1
    with pytest.raises(UserError, match="AND composes by guidance, and guidance scale 1 is none"):
        draw(pipe, "a cat AND a dog", guidance_scale=1.0)


def test_prompts_of_all_kinds_share_a_batch_and_each_equals_the_one_drawn_alone(
    pipe: TextToImagePipeline,
) -> None:
    prompts = ["a cat", "a (dog:1.4) AND an owl :0.5", "[a fox|a cat]", "{a dog|an owl} at night"]
    for extra in ({}, {"long_prompts": "chunk"}):
        options = {**FEW, **extra}
        requests = [Request(prompt=p, **{**options, "seed": k}) for k, p in enumerate(prompts)]
        batch = list(pipe.draw(requests))
        for request, picture in zip(requests, batch, strict=True):
            (alone,) = pipe.draw([request])
            assert near(picture.latents, alone.latents)
            assert picture.request == alone.request


def test_long_prompts_that_change_hide_only_what_is_filled_up(pipe: TextToImagePipeline) -> None:
    long = "a cat in the snow and " * 5
    options: dict[str, Any] = {"long_prompts": "chunk"}
    first = draw(pipe, f"[{long}:a dog:4]", **options)
    assert near(first, draw(pipe, long, **options))
    last = draw(pipe, f"[{long}:a dog:0]", **options)
    assert near(last, draw(pipe, "a dog", **options))


# Choices and recipes


def test_a_recipe_holds_the_choice_and_what_was_chosen_from(pipe: TextToImagePipeline) -> None:
    lists = {"animal": ("cat", "dog", "owl", "fox")}
    result = pipe("a __animal__ {in|on} snow", word_lists=lists, **FEW)
    request = result.recipe.request
    assert request.template == "a __animal__ {in|on} snow"
    assert request.given is None or request.given.word_lists is None
    assert "_" not in request.prompt and "{" not in request.prompt
    kept = Recipe.from_json(json.loads(json.dumps(result.recipe.to_json())))
    assert kept == result.recipe
    (again,) = pipe.draw([kept.request])
    assert torch.equal(again.latents, result.latents[0])
    others = [Request(prompt="{cat|dog|owl}", **{**FEW, "seed": seed}) for seed in range(12)]
    assert len({request.prompt for request in pipe.resolve(others)}) == 3


def test_without_word_lists_their_names_are_text(pipe: TextToImagePipeline) -> None:
    request = pipe("the __init__ of a cat", **FEW).recipe.request
    assert (request.prompt, request.template) == ("the __init__ of a cat", None)


def test_requests_from_before_the_language_are_plain() -> None:
    old = {"schema": 1, "prompt": "a cat (in the snow)", "seed": 1}
    assert Request.from_json(old).prompt_syntax == "plain"
    assert Recipe.from_json({"prompt": "a (cat)", "model": "x"}).request.prompt_syntax == "plain"
    assert Request.from_json({"prompt": "a (cat)"}).prompt_syntax == "a1111"


def test_words_lost_from_a_part_or_a_later_text_are_told(pipe: TextToImagePipeline) -> None:
    long = " ".join(["cat"] * 22)
    with pytest.warns(UserWarning, match="limit: snow night"):
        result = pipe(f"a dog AND ({long} snow [:night:2]:1.1)", **FEW)
    assert list(result.dropped_words.values()) == [("snow", "night")]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": "(a:500)"}, "comes to 500"),
        ({"negative_prompt": "(a:500)"}, "comes to 500"),
        ({"prompt": "[a:(b:500):2]"}, "comes to 500"),
        ({"prompt_syntax": "a111"}, "did you mean 'a1111'"),
        ({"prompt": "half \ud800"}, "half a character at place 6"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused_before_drawing(
    pipe: TextToImagePipeline, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        pipe.resolve([Request(**{"prompt": "a cat", **FEW, **wrong})])


def test_word_lists_are_no_use_to_plain_prompts(pipe: TextToImagePipeline) -> None:
    with pytest.raises(UserError, match="word lists mean nothing in prompts of the syntax plain"):
        pipe("a __x__", word_lists={"x": ("cat",)}, prompt_syntax="plain", **FEW)
