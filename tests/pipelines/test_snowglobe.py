"""The embedded model: what ships is what the card says, and diffusers draws it too."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from latentdiff.models import model_folder as folders
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.text_to_image import TextToImagePipeline
from latentdiff.scenes.captions import vocabulary
from latentdiff.scenes.catalog import SETTINGS, SUBJECTS, core_subjects

PROMPTS = ["a cat in the snow", "a castle at night"]


@pytest.fixture(scope="module")
def pipe() -> TextToImagePipeline:
    return TextToImagePipeline.from_pretrained("snowglobe")


def test_all_weights_together_are_at_most_48_mb() -> None:
    files = Path(folders.built_in_folder("snowglobe")).rglob("*")
    assert sum(file.stat().st_size for file in files if file.is_file()) <= 48_000_000


def test_the_card_in_the_folder_is_the_world_of_this_version(pipe: TextToImagePipeline) -> None:
    card = pipe.bundle.card
    assert set(card["subjects"]) == {SUBJECTS[key].name for key in core_subjects()}
    assert set(card["settings"]) == set(SETTINGS)
    assert set(card["vocabulary"]) == set(vocabulary(core_subjects()))


def test_no_word_of_the_world_is_lost_to_the_tokenizers_limit(pipe: TextToImagePipeline) -> None:
    from latentdiff.conditioning.text import count_tokens

    assert all(count_tokens(pipe.bundle.tokenizer, word) <= 3 for word in vocabulary())


def test_diffusers_draws_the_same_pictures_from_the_shipped_folder(
    pipe: TextToImagePipeline,
) -> None:
    from diffusers import StableDiffusionPipeline

    ours = pipe(PROMPTS, seeds=[0, 8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = StableDiffusionPipeline.from_pretrained(
            folders.built_in_folder("snowglobe"), dtype=torch.float32, local_files_only=True
        )
    theirs.set_progress_bar_config(disable=True)
    made = theirs(
        PROMPTS,
        num_inference_steps=ours.recipe.request.num_inference_steps,
        guidance_scale=ours.recipe.request.guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in (0, 8)],
    ).images
    for mine, other in zip(ours.images, made, strict=True):
        difference = np.abs(np.asarray(mine, np.int16) - np.asarray(other, np.int16))
        assert difference.max() <= 1


def test_places_have_the_light_that_their_names_promise(pipe: TextToImagePipeline) -> None:
    snow, night = pipe(PROMPTS, seeds=[0, 8]).images
    assert np.asarray(snow).mean() > 1.5 * np.asarray(night).mean()


def test_the_recipe_holds_the_steps_that_were_asked_for_also_where_heun_takes_more(
    pipe: TextToImagePipeline,
) -> None:
    request = Request(prompt="a cat", scheduler="heun", num_inference_steps=10)
    (resolved,) = pipe.resolve([request])
    assert resolved.num_inference_steps == 10
    assert next(pipe.stream(resolved)).total == 19


def test_a_half_precision_folder_draws_when_diffusers_opens_it_without_arguments(tmp_path):
    import tiny
    import torch
    from diffusers import StableDiffusionPipeline

    from latentdiff.models import bundle

    folder = bundle.save(tiny.tiny(), tmp_path / "half", dtype=torch.float16)
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    assert (pipe.text_encoder.dtype, pipe.unet.dtype) == (torch.float32, torch.float32)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a cat", num_inference_steps=1, height=32, width=32).images[0].size == (32, 32)
