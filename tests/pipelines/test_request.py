"""Requests: checked when built, the same after JSON, expanded to pictures."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from latentdiff.errors import UserError
from latentdiff.pipelines.request import PER_PICTURE, Request, several
from latentdiff.pipelines.request_records import (
    Blend,
    Embeds,
    Inpaint,
    Inversion,
    Source,
    Upscale,
)
from latentdiff.pipelines.walk.batch import batches

FULL = Request(
    prompt="a cat",
    negative_prompt="a dog",
    seed=3,
    width=64,
    height=32,
    num_inference_steps=7,
    guidance_scale=2.5,
    guidance_rescale=0.5,
    guidance_start=0.1,
    guidance_end=0.9,
    deep_cache_interval=3,
    scheduler="ddim",
    eta=0.5,
    clip_skip=1,
    long_prompts="chunk",
    source=Source(image="a.png", strength=0.5, resize="fit"),
    blend=Blend(seed=9, prompt="a dog", amount=0.25),
    upscale=Upscale(scale=1.5, strength=0.25),
    decode_tile=256,
    prompt_syntax="plain",
    template="a {cat|dog}",
)
OTHERS = {"timesteps": (900, 500), "embeds": Embeds(file="contexts.safetensors")}
"""Of fields that FULL cannot hold beside its own."""


@pytest.mark.parametrize("request_", [FULL, Request(prompt="")], ids=["full", "bare"])
def test_a_request_is_the_same_after_json(request_: Request) -> None:
    assert Request.from_json(json.loads(json.dumps(request_.to_json()))) == request_


def test_json_holds_every_field_and_the_number_of_its_form() -> None:
    names = {field.name for field in dataclasses.fields(Request)} - {"given"}
    assert set(FULL.to_json()) == names | {"schema"}
    assert FULL.to_json()["schema"] == 2


def test_a_part_of_a_request_keeps_the_other_defaults() -> None:
    assert Request.from_json({"prompt": "a cat", "seed": 3}) == Request(prompt="a cat", seed=3)


def test_numbers_of_numpy_are_numbers() -> None:
    request = Request(prompt="", seed=np.int64(3), guidance_scale=np.float32(2))  # type: ignore[arg-type]
    assert request.to_json()["seed"] == 3
    assert json.dumps(request.to_json())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": None}, "a text was expected"),
        ({"seed": True}, "a whole number was expected"),
        ({"seed": 1.5}, "a whole number was expected"),
        ({"seed": -3}, "out of range"),
        ({"guidance_scale": "much"}, "a number was expected"),
        ({"guidance_scale": float("nan")}, "guidance scale nan"),
        ({"guidance_scale": float("inf")}, "guidance scale inf"),
        ({"guidance_rescale": -0.1}, "guidance rescale"),
        ({"eta": -1.0}, "eta -1.0"),
        ({"eta": float("nan")}, "eta nan"),
        ({"clip_skip": -1}, "clip_skip -1"),
        ({"width": 0}, "width 0 does not fit"),
        ({"num_inference_steps": -5}, "-5 steps"),
        ({"scheduler": "eular"}, "did you mean 'euler'"),
        ({"long_prompts": "cut"}, "unknown long_prompts 'cut'"),
        ({"decode_tile": 3}, "decode_tile 3 is too small"),
        ({"num_inference_steps": 3, "timesteps": (5, 1)}, "3 steps and 2 timesteps"),
        ({"upscale": Upscale(), "source": Source(inpaint=Inpaint())}, "repaint or edit first"),
        ({"width": 10**5, "height": 10**5}, "more than 16,777,216 pixels"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_no_model_can_draw_is_refused_when_built(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Request(**{"prompt": "a cat", **wrong})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"prompt": "a", "guidance_scal": 2}, "did you mean 'guidance_scale'"),
        ({"prompt": "a", "seed": "3"}, "seed is '3'"),
        ({"prompt": "a", "schema": 3}, "a newer latentdiff wrote it"),
        ({"seed": 3}, "prompt"),
        ([], "a table of keys was expected"),
    ],
    ids=str,
)
def test_json_of_another_kind_is_refused_by_name(table: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        Request.from_json(table)
    assert said in str(caught.value)


def test_pictures_of_a_prompt_stand_together_and_seeds_count_up() -> None:
    template = Request(prompt="", seed=5, eta=0.5)
    found = several(template, ["a", "b"], negative_prompts=["x", "y"], num_images_per_prompt=2)
    assert [(r.prompt, r.negative_prompt, r.seed) for r in found] == [
        ("a", "x", 5),
        ("a", "x", 6),
        ("b", "y", 7),
        ("b", "y", 8),
    ]
    assert {r.eta for r in found} == {0.5}


def test_a_batch_holds_only_what_can_be_drawn_together() -> None:
    def full(k: int, **other: Any) -> Request:
        return Request(prompt=str(k), negative_prompt=str(k), seed=k, guidance_scale=2.0, **other)

    requests = [full(k, width=64 if k % 2 else 32) for k in range(7)]
    assert [b.places for b in batches(requests, 3)] == [(0, 2, 4), (1, 3, 5), (6,)]
    assert [b.places for b in batches([full(k) for k in range(5)], 2)] == [(0, 1), (2, 3), (4,)]
    for field in dataclasses.fields(Request):
        if field.name not in PER_PICTURE:
            value = OTHERS.get(field.name, getattr(FULL, field.name))
            texts = {} if field.name != "embeds" else {"prompt": "", "negative_prompt": ""}
            other = dataclasses.replace(full(0), **texts, **{field.name: value})
            assert len(batches([full(0), other], 2)) == 2, field.name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Source(strength=0.0), "strength 0.0 is out of range"),
        (lambda: Source(resize="crop"), "unknown resize 'crop'"),
        (lambda: Source(inpaint=Inpaint(), inversion=Inversion()), "not both"),
        (lambda: Inpaint(expand=(1, 2, 3)), "LEFT,TOP,RIGHT,BOTTOM"),
        (lambda: Inpaint(expand=(1, 2, 3, -4)), "LEFT,TOP,RIGHT,BOTTOM"),
        (lambda: Inpaint(resample=0), "resample 0 is out of range"),
        (lambda: Inversion(guidance_scale=-1.0), "guidance scale -1.0"),
        (lambda: Blend(amount=1.5), "amount is 1.5"),
        (lambda: Blend(seed=-3), "seed -3"),
        (lambda: Upscale(scale=1.0), "an upscale of 1.0"),
        (lambda: Upscale(strength=0.0), "strength 0.0"),
    ],
)
def test_a_record_refuses_what_cannot_be(make: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert said in str(caught.value)


def test_records_inside_a_request_are_the_same_after_json() -> None:
    inpaint = Inpaint(mask="m.png", expand=(1, 2, 3, 4), only_masked=True, resample=3)
    for source in (
        Source(image="a.png", inpaint=inpaint),
        Source(image="a.png", inversion=Inversion(prompt="a cat", exact=True)),
    ):
        request = Request(prompt="a dog", source=source)
        assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request
