"""The pipeline's own promises: batches, seeds, streams, recipes, refusals."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from latentdiff.conditioning.text import encode, tokenize
from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.pipelines import Recipe, Request, TextToImagePipeline, read_recipe
from latentdiff.schedulers import interop

PROMPTS = ["a cat in the snow", "an owl at night", "a dog on the beach"]
FEW: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def pipe() -> TextToImagePipeline:
    return TextToImagePipeline(tiny.tiny())


@torch.no_grad()
def assert_same_pictures(pipe: TextToImagePipeline, one: torch.Tensor, other: torch.Tensor) -> None:
    """Within 1e-5 before rounding, of a range of 2."""
    decode = Autoencoder(pipe.bundle.vae).decode
    assert one.shape == other.shape
    assert float((decode(one) - decode(other)).abs().max()) <= 1e-5


# Batches and seeds


@pytest.mark.parametrize("model", ["tiny", "sd1"])
@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpmsolver++"])
def test_a_batch_equals_its_pictures_made_one_at_a_time(model: str, scheduler: str) -> None:
    pipe = TextToImagePipeline(tiny.tiny() if model == "tiny" else tiny.stable_diffusion_1())
    options: dict[str, Any] = {**FEW, "scheduler": scheduler, "guidance_scale": 5.0}
    negative = ["", "a fox", "snow"]
    seeds = [5, 900, 2**32 - 1]
    batch = pipe(PROMPTS, negative_prompt=negative, seeds=seeds, **options)
    for k in range(3):
        alone = pipe(PROMPTS[k], negative_prompt=negative[k], seed=seeds[k], **options)
        assert_same_pictures(pipe, batch.latents[k : k + 1], alone.latents)


def test_pictures_of_a_prompt_stand_together_and_seeds_count_up(pipe: TextToImagePipeline) -> None:
    result = pipe(PROMPTS[:2], num_images_per_prompt=2, seed=10, **FEW)
    assert result.seeds == (10, 11, 12, 13)
    prompts = [picture.request.prompt for picture in result.pictures]
    assert prompts == [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    alone = pipe(PROMPTS[1], seed=12, **FEW)
    assert_same_pictures(pipe, result.latents[2:3], alone.latents)


def test_without_a_seed_one_is_drawn_and_reported(pipe: TextToImagePipeline) -> None:
    first, second = (pipe(PROMPTS[0], num_inference_steps=1) for _ in range(2))
    assert first.seeds != second.seeds
    again = pipe(PROMPTS[0], seed=first.seeds[0], num_inference_steps=1)
    assert torch.equal(again.latents, first.latents)


def test_the_same_call_gives_the_same_bits(pipe: TextToImagePipeline) -> None:
    first, second = (pipe(PROMPTS[0], seed=1, scheduler="ddpm", **FEW) for _ in range(2))
    assert torch.equal(first.latents, second.latents)


def test_drawing_does_not_touch_torch_s_global_noise(pipe: TextToImagePipeline) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    pipe(PROMPTS[0], seed=1, scheduler="euler-ancestral", **FEW)
    assert torch.equal(torch.rand(3), expected)


def test_given_latents_stand_for_the_first_draw(pipe: TextToImagePipeline) -> None:
    x_T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    given = pipe(PROMPTS[0], latents=x_T, seed=99, **FEW)
    drawn = pipe(PROMPTS[0], seed=4, **FEW)
    assert torch.equal(given.latents, drawn.latents)
    assert given.recipe.to_json()["request"]["given"] == ["latents"]
    assert "given" not in drawn.recipe.to_json()["request"]


# What a call means


def test_defaults_are_the_model_s_own_and_then_stable_diffusion_s(
    pipe: TextToImagePipeline,
) -> None:
    assert (pipe.default_steps, pipe.default_guidance_scale) == (50, 7.5)
    card = {"num_inference_steps": 3, "guidance_scale": 2.0}
    own = TextToImagePipeline(tiny.with_card(tiny.tiny(), **card))
    result = own(PROMPTS[0], seed=0)
    assert result.recipe.request.num_inference_steps == 3
    assert result.recipe.request.guidance_scale == 2.0
    assert result.images[0].size == (32, 32)
    told = pipe(PROMPTS[0], seed=0, num_inference_steps=3, guidance_scale=2.0)
    assert torch.equal(result.latents, told.latents)


def test_height_comes_first(pipe: TextToImagePipeline) -> None:
    result = pipe(PROMPTS[0], height=16, width=48, seed=0, num_inference_steps=1)
    assert result.images[0].size == (48, 16)
    assert result.latents.shape == (1, 4, 4, 12)


def test_without_guidance_the_network_runs_once_a_step(pipe: TextToImagePipeline) -> None:
    batches: list[int] = []
    hook = pipe.bundle.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    try:
        pipe(PROMPTS[0], seed=0, **FEW | {"guidance_scale": 1.0})
        pipe(PROMPTS[0], seed=0, **FEW)
    finally:
        hook.remove()
    assert batches == [1] * 4 + [2] * 4


def test_the_negative_prompt_matters_with_guidance_only(pipe: TextToImagePipeline) -> None:
    def draw(scale: float, negative: str) -> torch.Tensor:
        options = FEW | {"guidance_scale": scale, "negative_prompt": negative}
        return pipe(PROMPTS[0], seed=0, **options).latents

    assert torch.equal(draw(1.0, ""), draw(1.0, "a fox"))
    assert float((draw(3.0, "") - draw(3.0, "a fox")).abs().max()) > 0.01


def test_a_ready_scheduler_may_be_given(pipe: TextToImagePipeline) -> None:
    ready = interop.build("ddim", pipe.bundle.scheduler_config, timesteps=[900, 400, 20])
    result = pipe(PROMPTS[0], scheduler=ready, seed=0)
    assert result.recipe.request.num_inference_steps == 3
    with pytest.raises(UserError, match="its own steps"):
        pipe(PROMPTS[0], scheduler=ready, num_inference_steps=4)


def test_lower_precision_draws_nearly_the_same_picture(tmp_path: Path) -> None:
    folder = tiny.save(tiny.tiny(), tmp_path / "model")
    full = TextToImagePipeline.from_pretrained(folder)
    half = TextToImagePipeline.from_pretrained(folder, dtype=torch.bfloat16)
    results = [p(PROMPTS[0], seed=0, **FEW) for p in (full, half)]
    assert [r.latents.dtype for r in results] == [torch.float32] * 2
    assert [r.recipe.dtype for r in results] == ["float32", "bfloat16"]
    left, right = (np.asarray(r.images[0]).astype(int) for r in results)
    assert 0 < abs(left - right).mean() < 8


# Streams


def test_a_stream_can_be_left_at_any_step_and_previews_have_full_size() -> None:
    preview = {"matrix": [[0.3, 0.2, 0.2]] * 4, "bias": [0, 0, 0]}
    pipe = TextToImagePipeline(tiny.with_card(tiny.tiny(), preview=preview))
    calls: list[int] = []
    hook = pipe.bundle.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        for leave_after in (1, 3, 4):
            calls.clear()
            requests = [Request(prompt=p, seed=0, height=16, **FEW) for p in PROMPTS[:2]]
            steps = pipe.stream(requests)
            for step in islice(steps, leave_after):
                assert [image.size for image in step.previews()] == [(32, 16)] * 2
                assert step.total == 4
            steps.close()
            assert len(calls) == leave_after
    finally:
        hook.remove()


def test_the_last_step_of_a_stream_is_the_picture(pipe: TextToImagePipeline) -> None:
    *_, last = pipe.stream(Request(prompt=PROMPTS[0], seed=0, **FEW))
    result = pipe(PROMPTS[0], seed=0, **FEW)
    assert torch.equal(last.latents, result.latents)
    assert pipe.decode(last.latents)[0].tobytes() == result.images[0].tobytes()


def test_a_model_without_a_preview_gives_none(pipe: TextToImagePipeline) -> None:
    assert pipe.bundle.preview is None
    step = next(pipe.stream(Request(prompt=PROMPTS[0], seed=0, **FEW)))
    assert step.previews() == []


def test_a_stream_leaves_the_caller_s_gradients_on(pipe: TextToImagePipeline) -> None:
    for step in pipe.stream(Request(prompt=PROMPTS[0], seed=0, **FEW)):
        assert torch.is_grad_enabled()
        assert not step.latents.requires_grad
        assert not step.latents.is_inference()


def test_a_stream_checks_its_arguments_when_called(pipe: TextToImagePipeline) -> None:
    with pytest.raises(UserError):
        pipe.stream(Request(prompt=PROMPTS[0], height=13))


def test_two_streams_may_run_side_by_side(pipe: TextToImagePipeline) -> None:
    options = {"scheduler": "unipc", **FEW}
    one, two = (pipe.stream(Request(prompt=PROMPTS[k], seed=k, **options)) for k in (0, 1))
    ends = list(zip(one, two, strict=True))[-1]
    for k, end in enumerate(ends):
        assert torch.equal(end.latents, pipe(PROMPTS[k], seed=k, **options).latents)


# Recipes


def test_a_recipe_is_all_it_takes_and_fits_json(tmp_path: Path) -> None:
    folder = tiny.save(tiny.tiny(), tmp_path / "model")
    pipe = TextToImagePipeline.from_pretrained(folder)
    options: dict[str, Any] = {**FEW, "scheduler": "ddim", "eta": 0.5, "guidance_rescale": 0.2}
    result = pipe(PROMPTS[:2], negative_prompt="a fox", seed=3, width=48, clip_skip=1, **options)
    recipe = Recipe.from_json(json.loads(json.dumps(result.pictures[1].recipe.to_json())))
    assert recipe == result.pictures[1].recipe
    assert (recipe.request.prompt, recipe.request.seed) == (PROMPTS[1], 4)
    assert set(recipe.weights_sha256) == {"unet", "vae", "text_encoder"}
    assert {"latentdiff", "torch", "diffusers", "transformers"} <= set(recipe.versions)
    again = TextToImagePipeline.from_pretrained(recipe.model)
    (picture,) = again.draw([recipe.request])
    assert_same_pictures(pipe, picture.latents[None], result.latents[1:])


def test_a_saved_result_keeps_its_recipes(pipe: TextToImagePipeline, tmp_path: Path) -> None:
    (one,) = pipe(PROMPTS[0], seed=3, **FEW).save(tmp_path / "cat.png")
    assert read_recipe(one).request.seed == 3
    two = pipe(PROMPTS[:2], seed=3, **FEW).save(tmp_path / "all.png")
    assert [path.name for path in two] == ["all-3.png", "all-4.png"]
    assert [read_recipe(path).request.prompt for path in two] == PROMPTS[:2]
    same = pipe(PROMPTS[:2], seeds=[3, 3], **FEW).save(tmp_path / "same.png")
    assert [path.name for path in same] == ["same-3-0.png", "same-3-1.png"]


# Many requests


def mixed() -> list[Request]:
    wide = {**FEW, "width": 48}
    kinds: list[dict[str, Any]] = [FEW, wide, FEW, {**FEW, "guidance_scale": 1.0}, wide, FEW]
    return [Request(prompt=PROMPTS[k % 3], seed=k, **kind) for k, kind in enumerate(kinds)]


def test_mixed_requests_come_in_order_and_each_equals_the_one_drawn_alone(
    pipe: TextToImagePipeline,
) -> None:
    requests = mixed()
    pictures = list(pipe.draw(requests, batch_size=2))
    assert [picture.request.seed for picture in pictures] == list(range(6))
    for request, picture in zip(requests, pictures, strict=True):
        (alone,) = pipe.draw([request])
        assert_same_pictures(pipe, picture.latents[None], alone.latents[None])


def test_requests_that_can_share_a_batch_do_and_no_batch_is_larger_than_asked(
    pipe: TextToImagePipeline,
) -> None:
    walked: list[tuple[int, ...]] = []
    list(pipe.draw(mixed(), batch_size=2, on_step=lambda step: walked.append(step.places)))
    assert list(dict.fromkeys(walked)) == [(0, 2), (1, 4), (3,), (5,)]


def test_drawing_checks_every_request_before_the_first_picture(pipe: TextToImagePipeline) -> None:
    good, bad = Request(prompt="a cat", **FEW), Request(prompt="a cat", eta=0.5, scheduler="ddpm")
    with pytest.raises(UserError, match="no use for eta"):
        pipe.draw([good, bad])
    with pytest.raises(UserError, match="batch_size is 0"):
        pipe.draw([good], batch_size=0)


def test_an_error_from_the_callback_stops_within_a_step(pipe: TextToImagePipeline) -> None:
    seen: list[int] = []

    def stop(step: Any) -> None:
        seen.append(step.index)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pipe.draw(mixed(), on_step=stop))
    assert seen == [0]


def test_a_stream_takes_one_batch(pipe: TextToImagePipeline) -> None:
    with pytest.raises(UserError, match="make 3 batches"):
        pipe.stream(mixed())


def test_resolving_twice_changes_nothing(pipe: TextToImagePipeline) -> None:
    once = pipe.resolve([Request(prompt="a cat")])
    assert pipe.resolve(once) == once
    assert once[0].seed is not None
    assert (once[0].height, once[0].width) == (32, 32)


def test_a_stored_request_that_was_drawn_from_given_latents_is_not_drawn_again(
    pipe: TextToImagePipeline,
) -> None:
    x_T = torch.randn(1, 4, 8, 8)
    stored = pipe(PROMPTS[0], latents=x_T, seed=0, **FEW).recipe.request.to_json()
    with pytest.raises(UserError, match="latents given in Python"):
        pipe.draw([Request.from_json(stored)])


@pytest.mark.parametrize("skip", [0, 1])
def test_clip_skip_is_the_hidden_state_that_it_names(pipe: TextToImagePipeline, skip: int) -> None:
    bundle = pipe.bundle
    ids = tokenize(bundle.tokenizer, PROMPTS).input_ids
    seen: list[torch.Tensor] = []
    layers = [m for n, m in bundle.text_encoder.named_modules() if n.rpartition(".")[2].isdigit()]
    hook = layers[-1 - skip].register_forward_hook(
        lambda *a: seen.append(a[2][0] if isinstance(a[2], tuple) else a[2])
    )
    try:
        context = encode(bundle.text_encoder, ids, clip_skip=skip)
    finally:
        hook.remove()
    norm = next(m for n, m in bundle.text_encoder.named_modules() if n.endswith("final_layer_norm"))
    torch.testing.assert_close(context, norm(seen[0]))


# Words


def test_words_beyond_the_limit_are_reported_and_warned_of(pipe: TextToImagePipeline) -> None:
    long = " ".join(["cat"] * 22) + " snow"
    with pytest.warns(UserWarning, match="lost to the tokenizer's limit: snow"):
        result = pipe(long, seed=0, num_inference_steps=1)
    assert result.dropped_words == {long: ("snow",)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipe(PROMPTS[0], seed=0, num_inference_steps=1).dropped_words == {}


def test_a_safety_checker_is_named_once_and_not_loaded(tmp_path: Path) -> None:
    folder = tiny.save(tiny.tiny(), tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        TextToImagePipeline.from_pretrained(folder)
    assert ["safety_checker" in str(w.message) for w in caught] == [True]


# Refusals


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"height": 30}, "height 30 does not fit; expected a multiple of 4"),
        ({"width": 4}, "at least 8, such as 8"),
        ({"height": -32}, "height -32"),
        ({"height": 0}, "height 0"),
        ({"width": 10**6}, "more than 16,777,216 pixels"),
        ({"num_inference_steps": 0}, "0 steps are out of range; expected 1"),
        ({"num_inference_steps": 1001}, "1001 steps"),
        ({"scheduler": "eulr"}, "unknown scheduler 'eulr'; did you mean 'euler'"),
        ({"eta": 0.5, "scheduler": "ddpm"}, "no use for eta"),
        ({"eta": 3.0}, "eta"),
        ({"guidance_scale": -1.0}, "guidance scale"),
        ({"guidance_rescale": 2.0}, "guidance rescale"),
        ({"seed": -2}, "seed -2 is out of range"),
        ({"seed": 2**32 + 5}, "32 bits, so 5 draws"),
        ({"seed": 1.7}, "a whole number was expected"),
        ({"num_inference_steps": 2.5}, "a whole number was expected"),
        ({"seed": 1, "seeds": [1]}, "both seed and seeds"),
        ({"seeds": [1, 2]}, "2 seeds for 1 pictures"),
        ({"num_images_per_prompt": 0}, "at least 1"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1 prompts"),
        ({"negative_prompt": []}, "0 negative prompts"),
        ({"latents": torch.zeros(1, 4, 4, 4)}, "(4, 4, 4); expected (4, 8, 8)"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, "expected one row each"),
        ({"clip_skip": 9}, "clip_skip is 9; this text encoder has"),
        ({"latents": torch.full((1, 4, 8, 8), float("nan"))}, "latents"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_done_is_said_in_one_line(
    pipe: TextToImagePipeline, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        pipe(PROMPTS[0], **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_argument_that_is_not_known_is_no_silence(pipe: TextToImagePipeline) -> None:
    with pytest.raises(TypeError, match="guidance_scal"):
        pipe(PROMPTS[0], guidance_scal=3)


def test_no_prompt_at_all_is_refused(pipe: TextToImagePipeline) -> None:
    with pytest.raises(UserError, match="no prompt"):
        pipe([])


@pytest.mark.parametrize(
    ("part", "layer", "said"),
    [
        ("unet", "conv_out", "the U-Net gave NaN or infinity at step 1 of 4"),
        ("vae", "decoder.conv_out", "the autoencoder's decoder gave NaN or infinity"),
        ("text_encoder", "final_layer_norm", "the text encoder gave NaN or infinity"),
    ],
)
def test_a_network_that_breaks_down_is_named_with_its_dtype(
    part: str, layer: str, said: str
) -> None:
    broken = copy.deepcopy(getattr(tiny.tiny(), part)).to(torch.bfloat16)
    module = next(m for name, m in broken.named_modules() if name.endswith(layer))
    with torch.no_grad():
        module.bias.fill_(float("nan"))
    pipe = TextToImagePipeline(dataclasses.replace(tiny.tiny(), **{part: broken}))
    with pytest.raises(UserError) as caught:
        pipe(PROMPTS[0], seed=0, **FEW)
    assert said in str(caught.value)
    assert "bfloat16" in str(caught.value)


def test_parts_that_do_not_fit_make_no_bundle() -> None:
    with pytest.raises(UserError, match="tokens"):
        dataclasses.replace(tiny.tiny(), tokenizer=tiny.stable_diffusion_1().tokenizer)
    assert isinstance(tiny.tiny(), bundles.Bundle)


def test_chunked_prompts_say_all_of_their_words_alone_and_beside_shorter_ones():
    pipe = TextToImagePipeline(tiny.tiny())
    long = " and ".join(["a cat in the snow"] * 9)
    options = {"num_inference_steps": 2, "long_prompts": "chunk"}
    both = pipe([long, "a fox"], seeds=[0, 1], **options)
    assert not both.dropped_words
    for k, text in enumerate((long, "a fox")):
        alone = pipe(text, seeds=[k], **options)
        torch.testing.assert_close(both.latents[k], alone.latents[0], atol=2e-3, rtol=1e-3)
    cut = pipe("a cat in the snow and a dog", seeds=[0], num_inference_steps=2)
    short = pipe("a cat in the snow and a dog", seeds=[0], **options)
    torch.testing.assert_close(cut.latents, short.latents)
    with pytest.warns(UserWarning, match="lost to the tokenizer's limit"):
        truncated = pipe(long, seeds=[0], num_inference_steps=2)
    assert not torch.allclose(truncated.latents[0], both.latents[0], atol=1e-3)
