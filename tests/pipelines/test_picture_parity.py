"""Image-to-image and inpainting draw what diffusers' own pipelines draw."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import made_pictures
import numpy as np
import pytest
import tiny
import torch

from latentdiff.errors import UserError
from latentdiff.models.bundle import Bundle
from latentdiff.pipelines import TextToImagePipeline
from latentdiff.pipelines.from_pictures.image_to_image import encode
from latentdiff.pipelines.request_records import Inpaint, Source

STEPS = 5
MODELS = {
    "epsilon": tiny.stable_diffusion_1,
    "v": functools.partial(tiny.stable_diffusion_1, "v_prediction"),
}
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {}),
}
OPTIONS: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 5.0}


def theirs(bundle: Bundle, kind: str, scheduler: str) -> Any:
    """diffusers' pipeline of this kind with the very same networks."""
    raw = {key: value for key, value in bundle.scheduler_config.raw.items() if key[0] != "_"}
    class_name, settings = SCHEDULERS[scheduler]
    pipe = getattr(diffusers, kind)(
        vae=bundle.vae,
        text_encoder=bundle.text_encoder,
        tokenizer=bundle.tokenizer,
        unet=bundle.unet,
        scheduler=getattr(diffusers, class_name).from_config(raw | settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image).astype(int)


def agree(ours: Any, others: Any) -> None:
    """Within one grey level of 255, on pictures that are no flat grey."""
    assert pixels(ours).std() > 5
    assert int(abs(pixels(ours) - pixels(others)).max()) <= 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("model", MODELS)
def test_image_to_image_draws_what_diffusers_draws(model: str, scheduler: str) -> None:
    bundle = MODELS[model]()
    pipe = TextToImagePipeline(bundle)
    image = made_pictures.picture()
    ours = pipe(
        tiny.PROMPT,
        image=image,
        source=Source(strength=0.6),
        seed=3,
        scheduler=scheduler,
        **OPTIONS,
    )
    other = theirs(bundle, "StableDiffusionImg2ImgPipeline", scheduler)(
        tiny.PROMPT,
        image=encode(pipe.autoencoder, [image]),
        strength=0.6,
        generator=torch.Generator().manual_seed(3),
        **OPTIONS,
    )
    agree(ours.images[0], other.images[0])


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("model", MODELS)
def test_repainting_draws_what_diffusers_draws(model: str, scheduler: str, strength: float) -> None:
    bundle = MODELS[model]()
    pipe = TextToImagePipeline(bundle)
    image, mask = made_pictures.picture(), made_pictures.mask()
    ours = pipe(
        tiny.PROMPT,
        image=image,
        mask=mask,
        source=Source(strength=strength, inpaint=Inpaint(feather=0)),
        seed=3,
        scheduler=scheduler,
        **OPTIONS,
    )
    latents = encode(pipe.autoencoder, [image])
    other = theirs(bundle, "StableDiffusionInpaintPipeline", scheduler)(
        tiny.PROMPT,
        image=latents,
        mask_image=mask,
        masked_image_latents=latents,
        strength=strength,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(3),
        **OPTIONS,
    )
    agree(pipe.decode(ours.latents)[0], other.images[0])


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_an_inpainting_checkpoint_draws_what_it_draws_in_diffusers(
    prediction_type: str, scheduler: str, strength: float
) -> None:
    bundle = tiny.inpainting(prediction_type)
    pipe = TextToImagePipeline(bundle)
    image, mask = made_pictures.picture(), made_pictures.mask()
    holed = image.copy()
    holed.paste((128, 128, 128), mask=mask)
    ours = pipe(
        tiny.PROMPT,
        image=image,
        mask=mask,
        source=Source(strength=strength, inpaint=Inpaint(feather=0)),
        seed=3,
        scheduler=scheduler,
        **OPTIONS,
    )
    other = theirs(bundle, "StableDiffusionInpaintPipeline", scheduler)(
        tiny.PROMPT,
        image=encode(pipe.autoencoder, [image]),
        mask_image=mask,
        masked_image_latents=encode(pipe.autoencoder, [holed]),
        strength=strength,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(3),
        **OPTIONS,
    )
    agree(pipe.decode(ours.latents)[0], other.images[0])


def test_an_inpainting_checkpoint_asks_for_a_mask() -> None:
    pipe = TextToImagePipeline(tiny.inpainting("epsilon"))
    with pytest.raises(UserError, match="needs a picture and a mask of what to repaint"):
        pipe(tiny.PROMPT, **OPTIONS)
    with pytest.raises(UserError, match="needs a mask of what to repaint"):
        pipe(tiny.PROMPT, image=made_pictures.picture(), **OPTIONS)
