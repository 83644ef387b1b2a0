"""Fifty pictures of all kinds, each drawn again from its file: every one comes back bit by bit."""

from __future__ import annotations

import copy
import dataclasses
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import loras
import made_pictures
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from latentdiff.cli import loading
from latentdiff.cli.main import run
from latentdiff.pipelines import TextToImagePipeline
from latentdiff.pipelines.recipes.picture_file import pixels_sha256, read_recipe, read_recipes

CAT = "a cat in the snow"
IMAGE = ["--image", "{image}"]
MASK = [*IMAGE, "--mask", "{mask}"]
RECIPES: dict[str, list[str]] = {
    "text to image": [CAT],
    "jpg": [CAT, "-o", "{out}.jpg"],
    "webp": [CAT, "-o", "{out}.webp"],
    "one of a batch": [CAT, "--num-images", "3", "--batch-size", "3", "--steps", "5"],
    "grid": [CAT, "a dog", "--num-images", "2", "--grid"],
    "negative prompt": [CAT, "--negative-prompt", "a (dog:1.4), on the beach"],
    "no guidance": [CAT, "--guidance-scale", "1"],
    "rescaled guidance": [CAT, "--guidance-scale", "9", "--guidance-rescale", "0.7"],
    "size": [CAT, "--width", "48", "--height", "16"],
    "clip skip": [CAT, "--clip-skip", "1"],
    "chunks": ["a cat and a dog and an owl " * 6, "--long-prompts", "chunk"],
    "cut": ["a cat and a dog and an owl " * 6],
    "umlauts and quotes": ['ein "Kätzchen", 雪: \\(plain\\)', "-o", "{out}.jpg"],
    "plain syntax": ["a (cat:1.3)", "--prompt-syntax", "plain"],
    "comfyui's weights": ["a (cat:1.3) in ((the snow))", "--prompt-syntax", "comfyui"],
    "weights": ["a (cat:1.3) [in] the ((snow))"],
    "and": ["a cat :1.2 AND the snow :0.6 AND a dog :-0.2"],
    "schedule": ["a [cat:dog:0.5] in the snow", "--steps", "4"],
    "alternation": ["a [cat|dog|owl]", "--steps", "4"],
    "choice": ["a {cat|dog|owl} {in|on} the snow"],
    "word list": ["a __animal__ in the snow", "--word-lists", "{lists}"],
    "ddim with noise": [CAT, "--scheduler", "ddim", "--eta", "0.7"],
    "ddpm": [CAT, "--scheduler", "ddpm", "--steps", "3"],
    "euler": [CAT, "--scheduler", "Euler", "--steps", "3"],
    "euler a": [CAT, "--scheduler", "Euler a", "--steps", "3"],
    "heun": [CAT, "--scheduler", "heun", "--steps", "3"],
    "dpm++ karras": [CAT, "--scheduler", "DPM++ 2M Karras", "--steps", "4"],
    "dpm++ sde": [CAT, "--scheduler", "DPM++ 2M SDE", "--steps", "4"],
    "unipc": [CAT, "--scheduler", "unipc", "--steps", "4"],
    "vp-sde": [CAT, "--scheduler", "vp-sde", "--steps", "4"],
    "timesteps": [CAT, "--timesteps", "999,700,300,20"],
    "contexts of a file": ["--prompt-embeds", "{embeds}", "--steps", "3"],
    "v-prediction": [CAT, "--model", "{v}", "--steps", "3"],
    "stable diffusion 1": [CAT, "--model", "{sd1}", "--steps", "2"],
    "stable diffusion 2": [CAT, "--model", "{sd2}", "--steps", "2", "--scheduler", "ddim"],
    "variant": [CAT, "--variant", "fp16"],
    "other autoencoder": [CAT, "--vae", "{vae}"],
    "bfloat16": [CAT, "--dtype", "bfloat16", "--steps", "1"],
    "lora": [CAT, "--lora", "{lora}:0.7"],
    "lora by parts": [CAT, "--lora", "{lora}:0.8:unet.up_blocks=0.25,text_encoder=0"],
    "two loras": [CAT, "--lora", "{lora}:0.5", "--lora", "{kohya}:-0.3"],
    "embedding": ["a zorb:1 in the (zorb:1:1.2)", "--embedding", "{word}:zorb:1"],
    "variation": [CAT, "--variation-strength", "0.3", "--variation-seed", "9"],
    "image to image": [CAT, *IMAGE, "--strength", "0.6", "--steps", "5", "--resize", "fit"],
    "inpainting": [CAT, *MASK, "--steps", "3", "--scheduler", "ddpm", "--feather", "2"],
    "only masked": [CAT, *MASK, "--only-masked", "--padding", "8", "--resample", "2"],
    "outpainting": [CAT, *IMAGE, "--expand", "16,0,8,4", "--steps", "3"],
    "inpainting model": [CAT, *MASK, "--model", "{inpainting}"],
    "edit": [CAT, *IMAGE, "--edit", "a dog", "--exact", "--steps", "3", "--strength", "0.7"],
    "upscale in tiles": [CAT, "--upscale", "2", "--upscale-strength", "0.5", "--decode-tile", "64"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models and what recipes name, under the names that stand in braces above."""
    home = tmp_path_factory.mktemp("files")
    card = {"num_inference_steps": 2, "guidance_scale": 2.0}
    models = {
        "model": tiny.with_card(tiny.tiny(), **card),
        "v": tiny.with_card(tiny.tiny("v_prediction"), **card),
        "sd1": tiny.stable_diffusion_1(),
        "sd2": tiny.stable_diffusion_2(),
        "inpainting": tiny.with_card(tiny.inpainting(), **card),
    }
    found = {name: tiny.save(bundle, home / name) for name, bundle in models.items()}
    half = tiny.save(models["model"], home / "half", dtype=torch.float16)
    for weights in half.rglob("*.safetensors"):
        there = found["model"] / weights.relative_to(half)
        shutil.copy(weights, there.with_suffix(".fp16.safetensors"))
    found["vae"] = home / "other" / "vae"
    other = copy.deepcopy(tiny.tiny().vae)
    other.decoder.conv_out.bias.data += 0.2
    tiny.save(dataclasses.replace(tiny.tiny(), vae=other), home / "other")
    found["lora"], found["kohya"] = loras.saved(loras.trained(tiny.tiny()), home / "loras")
    found["word"] = home / "word.safetensors"
    width = tiny.tiny().text_encoder.config.hidden_size
    save_file({"emb_params": torch.randn(2, width)}, found["word"])
    pipe = TextToImagePipeline(tiny.tiny())
    contexts = {"prompt_embeds": pipe.encode(CAT), "negative_prompt_embeds": pipe.encode("")}
    found["embeds"] = home / "contexts.safetensors"
    save_file({k: v.contiguous() for k, v in contexts.items()}, found["embeds"])
    found["lists"] = home / "lists"
    found["lists"].mkdir()
    (found["lists"] / "animal.txt").write_text("cat\ndog\nowl\n")
    found["image"], found["mask"] = home / "image.png", home / "mask.png"
    made_pictures.picture(48, 40).save(found["image"])
    made_pictures.mask(48, 40, (8, 8, 24, 24)).save(found["mask"])
    return found


@pytest.fixture(scope="module", autouse=True)
def each_model_is_opened_once() -> Iterator[None]:
    """Equal options open equal models; that a recipe leads to equal options is what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", functools.cache(loading.load))
        yield


def test_there_are_fifty() -> None:
    assert len(RECIPES) == 50


@pytest.mark.parametrize("name", RECIPES)
def test_a_picture_comes_back_bit_by_bit(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    names = {**files, "out": tmp_path / "drawn"}
    given = [
        word.format(**names) if "{" in word and name != "choice" else word for word in RECIPES[name]
    ]
    model = [] if "--model" in given else ["--model", str(files["model"])]
    place = [] if "-o" in given else ["-o", str(tmp_path / "drawn.png")]
    assert run(["generate", *given, *model, *place, "--seed", "3", "--device", "cpu"]) == 0
    drawn = next(path for path in sorted(tmp_path.iterdir()) if path.stem.startswith("drawn"))
    again = tmp_path / "again.png"
    assert run(["replay", str(drawn), "-o", str(again)]) == 0
    told = read_recipe(drawn)
    with Image.open(again) as image:
        assert pixels_sha256(image) == told.pixels_sha256
    assert read_recipes(again)[0].request == told.request
    if drawn.suffix != ".jpg":
        with Image.open(drawn) as image:
            assert pixels_sha256(image) == told.pixels_sha256
