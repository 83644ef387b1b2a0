"""A1111's and ComfyUI's settings: read as far as they go, with the rest named; never a crash."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from latentdiff.errors import UserError
from latentdiff.pipelines import Recipe, Request
from latentdiff.pipelines.recipes.a1111 import read_parameters, scheduler_of, write_parameters
from latentdiff.pipelines.recipes.comfyui import read_graph
from latentdiff.pipelines.recipes.picture_file import read_picture, read_recipe, save_picture

A1111 = """masterpiece, (a cat:1.2) <lora:owl:0.7>
in the snow
Negative prompt: bad, [worse]
hands
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 965, Size: 512x768, Model hash: 6ce01, \
Model: "dreams, v8", Clip skip: 2, ENSD: 31337, Version: v1.6.0"""


def test_the_settings_of_a1111_become_a_request_and_the_rest_is_named() -> None:
    found = read_parameters(A1111)
    assert found.program == "A1111"
    assert found.model == "dreams, v8"
    assert found.request == Request(
        prompt="masterpiece, (a cat:1.2) \nin the snow",
        negative_prompt="bad, [worse]\nhands",
        seed=965,
        width=512,
        height=768,
        num_inference_steps=20,
        guidance_scale=7.5,
        scheduler="dpmsolver++-karras",
        clip_skip=1,
        long_prompts="chunk",
    )
    notes = " / ".join(found.notes)
    assert "--lora owl.safetensors:0.7" in notes
    assert "ENSD: 31337 is not kept" in notes
    assert "noise on the GPU" in notes


def test_what_is_written_for_a1111_is_read_back() -> None:
    request = Request(
        prompt='a "cat", in the\nsnow, 雪',
        negative_prompt="a dog",
        seed=3,
        width=64,
        height=32,
        num_inference_steps=5,
        guidance_scale=4.5,
        guidance_rescale=0.25,
        scheduler="ddim",
        eta=0.5,
        clip_skip=1,
        long_prompts="chunk",
    )
    recipe = Recipe(request=request, model="/models/a, b", versions={"latentdiff": "0.1.0"})
    found = read_parameters(write_parameters(recipe))
    assert (found.request, found.model, found.notes) == (request, "a, b", ())
    plain = Request(prompt="a (cat) [b]", prompt_syntax="plain", num_inference_steps=2)
    written = write_parameters(Recipe(request=plain)).splitlines()[0]
    assert written == r"a \(cat\) \[b\]"


@pytest.mark.parametrize(
    ("sampler", "schedule", "ours", "said"),
    [
        ("Euler a", "", "euler-a", ""),
        ("DPM++ 2M", "Karras", "dpmsolver++-karras", ""),
        ("DPM++ 2M SDE Exponential", "", "dpmsolver++-sde", "exponential is not kept"),
        ("DDIM", "Karras", "ddim", "Karras is not kept"),
        ("uni_pc", "normal", "unipc", ""),
        ("Restart", "", None, "Restart is not known here"),
    ],
)
def test_samplers_are_known_by_their_names(
    sampler: str, schedule: str, ours: str | None, said: str
) -> None:
    notes: list[str] = []
    assert scheduler_of(sampler, schedule, notes) == ours
    assert said in " ".join(notes)
    assert bool(notes) == bool(said)


def graph(**changes: Any) -> dict[str, Any]:
    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    sampler = {
        "seed": 7,
        "steps": 12,
        "cfg": 6.5,
        "sampler_name": "euler_ancestral",
        "scheduler": "karras",
        "denoise": 1.0,
        "model": ["10", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": ["5", 0],
    }
    return {
        "3": node("KSampler", **{**sampler, **changes}),
        "4": node("CheckpointLoaderSimple", ckpt_name="dreams.safetensors"),
        "10": node("LoraLoader", model=["4", 0], lora_name="owl.safetensors", strength_model=0.6),
        "5": node("EmptyLatentImage", width=512, height=640, batch_size=1),
        "6": node("CLIPTextEncode", text="a (cat:1.2)", clip=["10", 1]),
        "7": node("CLIPTextEncode", text="a dog", clip=["10", 1]),
        "8": node("VAEDecode", samples=["3", 0]),
        "9": node("SaveImage", images=["8", 0]),
        "11": node("ControlNetApply", image=["12", 0]),
    }


def test_the_graph_of_comfyui_is_followed_and_the_rest_is_named() -> None:
    found = read_graph(json.dumps(graph()))
    assert (found.program, found.model) == ("ComfyUI", "dreams.safetensors")
    r = found.request
    assert (r.prompt, r.negative_prompt, r.seed) == ("a (cat:1.2)", "a dog", 7)
    assert (r.width, r.height, r.num_inference_steps) == (512, 640, 12)
    assert (r.guidance_scale, r.scheduler, r.prompt_syntax) == (
        6.5,
        "euler-ancestral-karras",
        "comfyui",
    )
    notes = " / ".join(found.notes)
    assert "--lora owl.safetensors:0.6" in notes
    assert "node ControlNetApply is not kept" in notes


def test_a_graph_with_a_circle_or_from_a_picture_is_read_all_the_same() -> None:
    turning = graph(positive=["20", 0])
    turning["20"] = {"class_type": "Any", "inputs": {"x": ["20", 0]}}
    found = read_graph(json.dumps(turning))
    assert found.request.prompt == ""
    assert "the positive prompt is not written" in " ".join(found.notes)
    started = graph(denoise=0.5, latent_image=["8", 0], seed=2**40 + 1)
    started["8"]["inputs"] = {"samples": None}
    notes = " ".join(read_graph(json.dumps(started)).notes)
    assert "starts from a picture" in notes
    assert "denoise 0.5 is not kept" in notes
    assert "lowest 32 bits" in notes


@pytest.mark.parametrize("text", ["", "a cat", "Steps", "Model: x", "{}", "[1]", "{", "[" * 9**5])
def test_other_texts_are_one_line(text: str) -> None:
    for read in (read_parameters, read_graph):
        with pytest.raises(UserError) as caught:
            read(text)
        assert "\n" not in str(caught.value)


def test_no_settings_break_the_readers() -> None:
    draw = random.Random(3)
    words = [
        "Steps: ",
        "Seed: ",
        "-1",
        "5",
        "1e9",
        "Size: 8x",
        ", ",
        '"',
        "\\",
        "\n",
        "(",
        ":",
        "x",
    ]
    words += ["Negative prompt:", "<lora:a:b>", "Sampler: Euler", "Clip skip: 0", "CFG scale: nan"]
    for _ in range(800):
        try:
            read_parameters("".join(draw.choices(words, k=draw.randrange(1, 15))))
        except UserError as error:
            assert "\n" not in str(error)
    values: list[Any] = [None, [], ["3", 0], ["x"], {}, "text", -1, 10**30, 1.5, True, [[]]]
    for _ in range(300):
        keys = draw.sample(sorted(graph()["3"]["inputs"]), 4)
        try:
            read_graph(json.dumps(graph(**{key: draw.choice(values) for key in keys})))
        except UserError as error:
            assert "\n" not in str(error)


# Files


def test_every_format_holds_the_recipe_and_a1111_s_text(tmp_path: Path) -> None:
    request = Request(prompt="a cat, 雪", seed=3, num_inference_steps=2, scheduler="ddim")
    recipe = Recipe(request=request, model="tiny", versions={"latentdiff": "0.1.0"})
    picture = Image.effect_noise((24, 16), 60).convert("RGB")
    for suffix, exact in (("png", True), ("jpg", False), ("webp", True)):
        path = save_picture(picture, tmp_path / f"a.{suffix}", recipe)
        contents = read_picture(path)
        assert contents.recipes == (recipe,)
        assert (contents.image.tobytes() == picture.tobytes()) == exact
        with Image.open(path) as image:
            raw = image.getexif().get_ifd(0x8769).get(0x9286, b"")
            text = getattr(image, "text", {}).get("parameters") or raw[8:].decode("utf-16-be")
        assert read_parameters(text).request.seed == 3
        grid = save_picture(picture, tmp_path / f"g.{suffix}", [recipe] * 40)
        assert len(read_picture(grid).recipes) == 40


def test_a_stripped_jpeg_is_read_by_its_comment(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode("utf-16-le")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    contents = read_picture(tmp_path / "a.jpg")
    assert contents.foreign is not None
    assert contents.foreign.request.seed == 965
    with pytest.raises(UserError, match="holds no latentdiff recipe"):
        read_recipe(tmp_path / "a.jpg")


def test_a_comfyui_png_is_recognised(tmp_path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("prompt", json.dumps(graph()))
    chunks.add_text("workflow", "{}")
    Image.new("RGB", (8, 8)).save(tmp_path / "c.png", pnginfo=chunks)
    foreign = read_picture(tmp_path / "c.png").foreign
    assert foreign is not None
    assert foreign.program == "ComfyUI"
