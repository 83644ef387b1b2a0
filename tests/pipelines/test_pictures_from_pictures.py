"""Image-to-image, repainting, outpainting and editing: what is promised of pixels and latents."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import made_pictures
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from latentdiff.errors import UserError
from latentdiff.pipelines import (
    Inpaint,
    Inversion,
    Recipe,
    Request,
    Source,
    TextToImagePipeline,
    Upscale,
    round_trip,
)
from latentdiff.pipelines.from_pictures import image_to_image, inpainting, sources
from latentdiff.schedulers import interop

FEW: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0, "seed": 3}


@pytest.fixture(scope="module")
def pipe() -> TextToImagePipeline:
    return TextToImagePipeline(tiny.tiny())


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


# Image-to-image


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "euler", "heun", "dpmsolver++"])
def test_at_strength_one_nothing_of_the_picture_is_left(
    pipe: TextToImagePipeline, scheduler: str
) -> None:
    image = made_pictures.picture(32, 32)
    over = pipe("a cat", image=image, source=Source(strength=1.0), scheduler=scheduler, **FEW)
    plain = pipe("a cat", scheduler=scheduler, **FEW)
    assert torch.equal(over.latents, plain.latents)


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++"])
def test_at_the_smallest_strength_the_reconstruction_comes_back(
    pipe: TextToImagePipeline, scheduler: str
) -> None:
    image = made_pictures.picture(32, 32)
    drawn = pipe(
        "a cat",
        image=image,
        source=Source(strength=0.002),
        scheduler=scheduler,
        **FEW | {"num_inference_steps": 500},
    )
    latents = image_to_image.encode(pipe.autoencoder, [image])
    half = pipe("a cat", image=image, source=Source(strength=0.5), scheduler=scheduler, **FEW)
    near, far = (float((d.latents - latents).square().mean().sqrt()) for d in (drawn, half))
    assert near < 0.1
    assert far > 5 * near


def test_a_strength_walks_its_share_of_the_steps(pipe: TextToImagePipeline) -> None:
    request = Request(prompt="a cat", seed=1, num_inference_steps=10, source=Source(strength=0.35))
    given = dataclasses.replace(
        request, given=dataclasses.replace(_given(), image=made_pictures.picture(32, 32))
    )
    assert [step.total for step in pipe.stream(given)] == [3, 3, 3]


def _given() -> Any:
    from latentdiff.pipelines.request import Given

    return Given()


@pytest.mark.parametrize(
    ("rule", "size"), [("fill", (32, 32)), ("stretch", (32, 32)), ("fit", (32, 16))]
)
def test_a_picture_takes_the_size_by_the_rule(
    pipe: TextToImagePipeline, rule: Any, size: tuple[int, int]
) -> None:
    image = made_pictures.picture(96, 48)
    options = FEW | {"num_inference_steps": 2}
    drawn = pipe("a cat", image=image, source=Source(resize=rule), **options)
    assert drawn.images[0].size == size
    middle = made_pictures.picture(96, 48).crop((24, 0, 72, 48)).resize((32, 32), 1)
    if rule == "fill":
        brought = sources.resized(image, (32, 32), "fill")
        assert abs(pixels(brought) - pixels(middle)).max() <= 2


def test_a_file_is_drawn_again_from_its_recipe_and_refused_once_it_changed(
    pipe: TextToImagePipeline, tmp_path: Path
) -> None:
    place = tmp_path / "cat.png"
    made_pictures.picture(96, 48).save(place)
    source = Source(image=str(place), resize="fit")
    drawn = pipe("a cat", source=source, **FEW)
    again = Recipe.from_json(drawn.recipe.to_json()).request
    assert again.source is not None and len(again.source.image_sha256) == 64
    (same,) = pipe.draw([again])
    assert torch.equal(same.latents, drawn.latents[0])
    made_pictures.picture(48, 48).save(place)
    with pytest.raises(UserError, match="is not the file that was drawn from"):
        pipe.resolve([again])


# Repainting


@pytest.mark.parametrize("size", [(32, 32), (50, 37)])
@pytest.mark.parametrize("feather", [0, 5])
def test_pixels_that_the_mask_holds_black_are_bit_equal(
    pipe: TextToImagePipeline, size: tuple[int, int], feather: int
) -> None:
    image, mask = made_pictures.picture(*size), made_pictures.mask(*size, box=(8, 6, 27, 26))
    drawn = pipe(
        "a cat",
        image=image,
        mask=mask,
        source=Source(inpaint=Inpaint(feather=feather)),
        **FEW,
    ).images[0]
    assert drawn.size == size
    kept = np.asarray(mask) == 0
    assert np.array_equal(pixels(drawn)[kept], pixels(image)[kept])
    assert (pixels(drawn) != pixels(image))[~kept].mean() > 0.5


def test_a_soft_edge_rises_inside_the_mask() -> None:
    mask = made_pictures.mask(40, 40, box=(10, 10, 30, 30))
    soft = np.asarray(sources.feathered(mask, 4)).astype(int)
    assert (soft[np.asarray(mask) == 0] == 0).all()
    assert list(soft[20, 9:16]) == [0, 51, 102, 153, 204, 255, 255]
    assert (np.asarray(sources.feathered(mask, 0)) == np.asarray(mask)).all()


def test_a_cell_that_a_single_white_pixel_touches_is_repainted(pipe: TextToImagePipeline) -> None:
    image, mask = made_pictures.picture(32, 32), Image.new("L", (32, 32))
    mask.putpixel((9, 22), 255)
    request = Request(
        prompt="",
        source=Source(inpaint=Inpaint(feather=0)),
        given=dataclasses.replace(_given(), image=image, mask=mask),
    )
    (resolved,) = pipe.resolve([request])
    cells = sources.canvas_of(resolved, pipe.geometry).cells(pipe.geometry.factor)
    assert cells.nonzero().tolist() == [[0, 22 // 4, 9 // 4]]


def test_kept_cells_hold_the_picture_at_the_noise_of_the_step(pipe: TextToImagePipeline) -> None:
    image, mask = made_pictures.picture(32, 32), made_pictures.mask(32, 32, box=(0, 0, 16, 32))
    request = Request(
        prompt="a cat",
        scheduler="ddim",
        source=Source(inpaint=Inpaint(feather=0)),
        given=dataclasses.replace(_given(), image=image, mask=mask),
        **FEW,
    )
    latents = image_to_image.encode(pipe.autoencoder, [image])
    x_T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    schedule = pipe.bundle.scheduler_config.noise_schedule()
    steps = list(pipe.stream(request))
    for step, following in zip(steps, [*(s.t for s in steps[1:]), None], strict=True):
        a = 1.0 if following is None else schedule.alpha_bar_at(int(following))
        expected = a**0.5 * latents + (1 - a) ** 0.5 * x_T
        assert torch.allclose(step.latents[..., 4:], expected[..., 4:], atol=1e-5)
        assert not torch.allclose(step.latents[..., :4], expected[..., :4], atol=0.1)


def test_outpainting_keeps_the_picture_and_grows_by_what_was_asked(
    pipe: TextToImagePipeline,
) -> None:
    image = made_pictures.picture(32, 32)
    source = Source(inpaint=Inpaint(expand=(8, 0, 5, 12)))
    drawn = pipe("a cat", image=image, source=source, **FEW).images[0]
    assert drawn.size == (45, 44)
    assert np.array_equal(pixels(drawn)[:32, 8:40], pixels(image))


def test_only_the_masked_part_is_drawn_at_the_model_s_size(pipe: TextToImagePipeline) -> None:
    image = made_pictures.picture(200, 120)
    mask = made_pictures.mask(200, 120, box=(100, 40, 130, 60))
    source = Source(inpaint=Inpaint(only_masked=True, padding=6))
    result = pipe("a cat", image=image, mask=mask, source=source, **FEW)
    drawn = result.images[0]
    assert drawn.size == (200, 120)
    assert result.latents.shape[-2:] == (8, 8)
    kept = np.asarray(mask) == 0
    assert np.array_equal(pixels(drawn)[kept], pixels(image)[kept])
    assert (pixels(drawn) != pixels(image))[~kept].mean() > 0.5


def test_resampling_walks_each_step_again_from_its_own_noise(pipe: TextToImagePipeline) -> None:
    scheduler = interop.build("euler", pipe.bundle.scheduler_config, 4)
    steps = scheduler.grid()
    assert [s.index for s in inpainting.resampled(steps, 3)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    a, s = scheduler.signal_and_noise(steps[1])
    x = a * torch.full((2000,), 2.0) + s * torch.randn(2000)
    again = inpainting.noised_further(x, torch.randn(2000), scheduler, steps[1], steps[0])
    a, s = scheduler.signal_and_noise(steps[0])
    assert abs(float(again.mean()) - 2 * a) < 0.1 * s
    assert abs(float(again.std()) - s) < 0.1 * s
    image, mask = made_pictures.picture(32, 32), made_pictures.mask(32, 32, box=(8, 8, 24, 24))
    totals = []
    pipe(
        "a cat",
        image=image,
        mask=mask,
        source=Source(inpaint=Inpaint(resample=2)),
        on_step=lambda step: totals.append(step.total),
        **FEW,
    )
    assert totals == [7] * 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": Source()}, "no picture to start from was given"),
        ({"source": Source(image="no.png")}, "there is no picture at no.png"),
        ({"source": Source(inpaint=Inpaint()), "image": (32, 32)}, "nothing says what to repaint"),
        ({"image": (32, 32), "mask": (32, 16)}, "the mask is 32 x 16 pixels, the picture 32 x 32"),
        ({"image": (32, 32), "mask": "black"}, "the mask is black everywhere"),
        ({"source": Source(strength=0.1), "image": (32, 32)}, "leaves none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_drawn_over_is_one_line(
    pipe: TextToImagePipeline, options: dict[str, Any], said: str
) -> None:
    options = dict(options)
    if "image" in options:
        options["image"] = made_pictures.picture(*options["image"])
    if "mask" in options:
        size = options["mask"]
        options["mask"] = Image.new("L", (32, 32)) if size == "black" else made_pictures.mask(*size)
    with pytest.raises(UserError) as caught:
        pipe("a cat", **options, **FEW)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# Inversion


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_edict_comes_back_to_the_picture_where_ddim_drifts(
    prediction_type: str, guidance_scale: float
) -> None:
    pipe = TextToImagePipeline(tiny.tiny(prediction_type))
    request = Request(
        prompt="a dog on the beach",
        num_inference_steps=10,
        source=Source(
            inversion=Inversion(
                prompt="a cat in the snow", exact=True, guidance_scale=guidance_scale
            )
        ),
        given=dataclasses.replace(_given(), image=made_pictures.picture(32, 32)),
    )
    exact = round_trip.measure(pipe, request)
    assert exact.latent_error < 1e-5
    assert request.source is not None and request.source.inversion is not None
    drifting = dataclasses.replace(
        request,
        source=dataclasses.replace(
            request.source, inversion=dataclasses.replace(request.source.inversion, exact=False)
        ),
    )
    assert round_trip.measure(pipe, drifting).latent_error > 20 * exact.latent_error


def test_another_prompt_draws_another_picture_from_the_same_noise(
    pipe: TextToImagePipeline,
) -> None:
    image = made_pictures.picture(32, 32)
    totals: list[int] = []

    def edited(prompt: str) -> torch.Tensor:
        return pipe(
            prompt,
            image=image,
            source=Source(inversion=Inversion(prompt="a cat in the snow", exact=True)),
            on_step=lambda step: totals.append(step.total),
            **FEW,
        ).latents

    one, other = edited("a dog on the beach"), edited("an owl at night")
    assert one.shape == (1, 4, 8, 8)
    assert not torch.allclose(one, other, atol=0.05)
    assert set(totals) == {16}  # four steps there and four back, two network calls each


def test_only_a_sampler_that_can_be_walked_backwards_inverts(pipe: TextToImagePipeline) -> None:
    options: dict[str, Any] = {
        "image": made_pictures.picture(32, 32),
        "source": Source(inversion=Inversion(prompt="a cat")),
    }
    for wrong in ({"scheduler": "euler"}, {"scheduler": "ddim", "eta": 0.5}):
        with pytest.raises(UserError, match="inverted with the scheduler ddim and eta 0"):
            pipe("a dog", **options, **wrong, **FEW)


# Larger


def test_a_second_pass_draws_the_enlarged_picture_over(pipe: TextToImagePipeline) -> None:
    small = pipe("a cat", **FEW).images[0]
    large = pipe("a cat", upscale=Upscale(scale=2.0, strength=0.5), **FEW)
    assert large.images[0].size == (64, 64)
    again = pipe(
        "a cat",
        image=small.resize((64, 64), Image.Resampling.LANCZOS),
        source=Source(strength=0.5),
        width=64,
        height=64,
        **FEW,
    )
    assert torch.equal(large.latents, again.latents)
    assert large.recipe.request.upscale == Upscale(scale=2.0, strength=0.5)
    assert large.recipe.request.source is None
