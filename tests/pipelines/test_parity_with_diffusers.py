"""The same seed draws the same picture here and in diffusers' own pipeline."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline

from latentdiff.models.bundle import Bundle
from latentdiff.pipelines import TextToImagePipeline

STEPS = 5  # divides 1000: elsewhere diffusers' DDIM strides past its own `trailing` timesteps
MODELS = {
    "tiny": tiny.tiny,
    "tiny v": functools.partial(tiny.tiny, "v_prediction"),
    "sd1": tiny.stable_diffusion_1,
    "sd1 v": functools.partial(tiny.stable_diffusion_1, "v_prediction"),
    "sd2 v": tiny.stable_diffusion_2,
}
GUIDANCE: dict[str, dict[str, Any]] = {
    "unguided": {"guidance_scale": 1.0},
    "guided": {"guidance_scale": 7.5},
    "guided, rescaled": {"guidance_scale": 7.5, "guidance_rescale": 0.7},
    "guided, negative": {"guidance_scale": 5.0, "negative_prompt": "a dog on the beach"},
}
FOREIGN = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
}


def theirs(bundle: Bundle, scheduler: str, settings: dict[str, Any] | None = None) -> Any:
    """diffusers' pipeline of the very same networks."""
    raw = {key: value for key, value in bundle.scheduler_config.raw.items() if key[0] != "_"}
    pipe = StableDiffusionPipeline(
        vae=bundle.vae,
        text_encoder=bundle.text_encoder,
        tokenizer=bundle.tokenizer,
        unet=bundle.unet,
        scheduler=getattr(diffusers, scheduler).from_config(raw | (settings or {})),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(image: Any) -> np.ndarray:
    return np.asarray(image).astype(int)


def draw_theirs(pipe: Any, seed: int = 3, prompt: str = tiny.PROMPT, **options: Any) -> np.ndarray:
    generator = torch.Generator("cpu").manual_seed(seed)
    options = {"num_inference_steps": STEPS} | options
    return picture(pipe(prompt, generator=generator, **options).images[0])


def draw_ours(
    bundle: Bundle, seed: int = 3, prompt: str = tiny.PROMPT, **options: Any
) -> np.ndarray:
    options = {"num_inference_steps": STEPS} | options
    return picture(TextToImagePipeline(bundle)(prompt, seed=seed, **options).images[0])


def agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Within one grey level of 255, on pictures with something in them."""
    assert ours.shape == theirs.shape
    assert theirs.std() > 20
    assert int(abs(ours - theirs).max()) <= 1


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
@pytest.mark.parametrize("model", MODELS)
def test_a_seed_draws_the_picture_that_diffusers_draws(
    model: str, scheduler: str, guidance: str
) -> None:
    bundle = MODELS[model]()
    options = GUIDANCE[guidance]
    agree(
        draw_ours(bundle, scheduler=scheduler, **options),
        draw_theirs(theirs(bundle, f"{scheduler.upper()}Scheduler"), **options),
    )


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("model", MODELS)
def test_ddim_with_noise_draws_the_noise_that_diffusers_draws(model: str, eta: float) -> None:
    bundle = MODELS[model]()
    agree(
        draw_ours(bundle, scheduler="ddim", eta=eta),
        draw_theirs(theirs(bundle, "DDIMScheduler"), eta=eta),
    )


@pytest.mark.parametrize("scheduler", FOREIGN)
@pytest.mark.parametrize("model", ["tiny", "sd1", "sd2 v"])
def test_every_other_sampler_draws_what_diffusers_draws(model: str, scheduler: str) -> None:
    bundle = MODELS[model]()
    agree(
        draw_ours(bundle, scheduler=scheduler, guidance_scale=5.0),
        draw_theirs(theirs(bundle, *FOREIGN[scheduler]), guidance_scale=5.0),
    )


@pytest.mark.parametrize("model", ["tiny", "sd1", "sd2 v"])
def test_the_checkpoint_s_own_scheduler_is_the_default(model: str) -> None:
    bundle = MODELS[model]()
    agree(
        draw_ours(bundle, guidance_scale=5.0),
        draw_theirs(theirs(bundle, bundle.scheduler_config.class_name), guidance_scale=5.0),
    )


def test_default_steps_and_guidance_are_those_of_diffusers() -> None:
    bundle = tiny.tiny()
    ours = TextToImagePipeline(bundle)(tiny.PROMPT, seed=5).images[0]
    seed = torch.Generator("cpu").manual_seed(5)
    agree(
        picture(ours),
        picture(theirs(bundle, "DDIMScheduler")(tiny.PROMPT, generator=seed).images[0]),
    )


def test_another_size_and_given_latents_agree_with_diffusers() -> None:
    bundle = tiny.stable_diffusion_1()
    x_T = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(9))
    options = {"height": 64, "width": 128, "latents": x_T}
    agree(
        draw_ours(bundle, scheduler="ddim", **options),
        draw_theirs(theirs(bundle, "DDIMScheduler"), **options),
    )


def test_each_picture_of_a_batch_is_the_one_diffusers_draws_alone() -> None:
    bundle = tiny.tiny()
    result = TextToImagePipeline(bundle)(
        tiny.PROMPT, num_images_per_prompt=3, seed=7, scheduler="ddpm", num_inference_steps=STEPS
    )
    pipe = theirs(bundle, "DDPMScheduler")
    for k, image in enumerate(result.images):
        agree(picture(image), draw_theirs(pipe, seed=7 + k))


def test_a_prompt_cut_at_the_limit_is_cut_as_in_diffusers() -> None:
    bundle = tiny.tiny()
    long = "a cat in the snow and " * 12
    with pytest.warns(UserWarning, match="limit"):
        ours = draw_ours(bundle, prompt=long)
    agree(ours, draw_theirs(theirs(bundle, "DDIMScheduler"), prompt=long))
