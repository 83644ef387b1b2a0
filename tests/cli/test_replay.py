"""`latentdiff replay`, `verify`, `info PICTURE` and `tokens`: what a picture holds, used again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save

from latentdiff.cli.main import run
from latentdiff.pipelines.recipes.picture_file import read_recipe, read_recipes, save_picture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = {"num_inference_steps": 2, "guidance_scale": 2.0}
    return tiny.save(tiny.with_card(tiny.tiny(), **card), tmp_path_factory.mktemp("m") / "tiny")


@pytest.fixture(scope="module")
def cat(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("p") / "cat.png"
    options = ["--seed", "3", "-o", str(place), "--model", str(model), "--device", "cpu"]
    assert run(["generate", "a (cat:1.2) in the snow", *options]) == 0
    return place


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def test_a_picture_is_drawn_again_bit_by_bit(cat: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.png"
    assert run(["replay", str(cat), "-o", str(again)]) == 0
    assert pixels(again) == pixels(cat)
    assert read_recipe(again) == read_recipe(cat)


def test_set_changes_what_it_names_and_nothing_else(cat: Path, tmp_path: Path) -> None:
    place = tmp_path / "other.webp"
    sets = ["--set", "guidance_scale=5", "--set", "steps=3", "--set", "prompt=3"]
    assert run(["replay", str(cat), *sets, "-o", str(place)]) == 0
    before, after = (read_recipe(path).request.to_json() for path in (cat, place))
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"guidance_scale", "num_inference_steps", "prompt"}
    assert after["prompt"] == "3"
    varied = ["--image", str(place), "--model", read_recipe(place).model, "--device", "cpu"]
    assert run(["generate", "a dog", *varied, "-o", str(tmp_path / "dog.png")]) == 0
    sets = ["--set", "strength=0.5", "--set", "source.resize=fit"]
    assert run(["replay", str(tmp_path / "dog.png"), *sets, "-o", str(place)]) == 0
    source = read_recipe(place).request.source
    assert source is not None and source.strength == 0.5


def test_a_grid_is_drawn_again_as_a_grid(model: Path, tmp_path: Path) -> None:
    grid, again = tmp_path / "grid.png", tmp_path / "again.png"
    options = ["--num-images", "3", "--seed", "1", "--grid", "-o", str(grid), "--batch-size", "2"]
    assert run(["generate", "a dog", *options, "--model", str(model), "--device", "cpu"]) == 0
    assert run(["replay", str(grid), "-o", str(again)]) == 0
    assert pixels(again) == pixels(grid)
    assert len(read_recipes(again)) == 3
    assert run(["verify", str(grid)]) == 0


def test_verify_says_bit_equal(cat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(cat)]) == 0
    assert capsys.readouterr().out == f"{cat}: bit-equal\n"


def test_a_jpeg_is_verified_by_the_pixels_that_were_drawn(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "cat.jpg"
    options = ["--model", str(model), "--device", "cpu", "-o", str(place)]
    assert run(["generate", "a cat", *options]) == 0
    assert run(["verify", str(place)]) == 0
    out = capsys.readouterr().out
    assert "bit-equal to what was drawn; against the file: PSNR" in out
    assert "saved as JPEG" in out


def test_verify_names_what_differs(
    cat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny.save(tiny.tiny("v_prediction"), tmp_path / "other")
    assert run(["verify", str(cat), "--model", str(other)]) == 1
    out = capsys.readouterr().out
    assert "PSNR" in out
    assert run(["verify", str(cat), "--dtype", "bfloat16"]) == 1
    assert "dtype: float32 then, bfloat16 now" in capsys.readouterr().out
    recipe = read_recipe(cat)
    import dataclasses

    lied = dataclasses.replace(
        recipe,
        weights_sha256={**recipe.weights_sha256, "vae": "0" * 64},
        settings_sha256={**recipe.settings_sha256, "scheduler": "1" * 64},
        embeddings=({"file": "zorb.safetensors", "sha256": "2" * 64, "token": "zorb"},),
        processor="another",
        instruction_set="AVX2",
        versions={**recipe.versions, "torch": "0.1"},
        request=dataclasses.replace(recipe.request, seed=4),
    )
    with Image.open(cat) as image:
        place = save_picture(image, tmp_path / "lied.png", lied)
    assert run(["verify", str(place)]) == 2
    assert "zorb.safetensors is not there; give it by --embedding FILE:zorb" in (
        capsys.readouterr().err
    )
    (tmp_path / "word.safetensors").write_bytes(
        save({"zorb": torch.zeros(1, tiny.tiny().text_encoder.config.hidden_size)})
    )
    assert run(["verify", str(place), "--embedding", str(tmp_path / "word.safetensors")]) == 1
    out = capsys.readouterr().out
    assert "vae: weights 0000000000 then" in out
    assert "scheduler: settings 1111111111 then" in out
    assert "embeddings: zorb 2222222222 then, zorb " in out
    assert "processor: another then" in out
    assert "instruction set: AVX2 then" in out
    assert "torch: 0.1 then" in out
    assert "unet" not in out


@pytest.mark.slow
def test_other_instructions_of_one_processor_are_all_that_differs(
    model: Path, tmp_path: Path
) -> None:
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("torch has no vector instructions to leave out here")
    place = tmp_path / "cat.png"
    options = ["--seed", "3", "--steps", "8", "--model", str(model), "--device", "cpu"]
    assert run(["generate", "a cat", *options, "-o", str(place)]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "latentdiff", "verify", str(place)],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
    )
    first, *rest = done.stdout.splitlines()
    if done.returncode == 0:
        assert first.endswith("bit-equal")
    else:
        assert "PSNR" in first
        now = f"  instruction set: {torch.backends.cpu.get_cpu_capability()} then, DEFAULT now"
        assert rest == [now]


def test_a_sweep_s_grid_and_a_sheet_of_the_way_are_drawn_again_as_they_were(
    model: Path, tmp_path: Path
) -> None:
    drawn = ["--seed", "1", "--steps", "1", "--model", str(model), "--device", "cpu"]
    axes = ["--sweep", "guidance_scale=1,3,5", "--sweep", "clip_skip=0,1"]
    assert run(["generate", "a cat", *axes, *drawn, "-o", str(tmp_path / "sweep.png")]) == 0
    assert run(["verify", str(tmp_path / "sweep.png")]) == 0
    way = ["interpolate", "a cat", "a dog", "an owl", "--frames", "2", *drawn[2:]]
    assert run([*way, "-o", str(tmp_path / "way.png")]) == 0
    assert run(["verify", str(tmp_path / "way.png")]) == 0
    assert run(["replay", str(tmp_path / "way.png"), "-o", str(tmp_path / "again.webp")]) == 0
    assert pixels(tmp_path / "again.webp") == pixels(tmp_path / "way.png")


def test_a_retouched_picture_is_told(
    cat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "retouched.png"
    with Image.open(cat) as image:
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("latentdiff", image.text["latentdiff"])
        changed = image.convert("RGB")
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(place, pnginfo=chunks)
    run(["verify", str(place)])
    assert "it was changed" in capsys.readouterr().out


def test_info_shows_what_a_picture_holds(cat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(cat)]) == 0
    out = capsys.readouterr().out
    for part in ("32 x 32 pixels", "a (cat:1.2) in the snow", "seed:", "unet", "torch"):
        assert part in out


def a1111(tmp_path: Path) -> Path:
    text = "a (cat:1.2) <lora:owl:0.5>\nNegative prompt: a dog\nSteps: 2, Sampler: Euler a, "
    text += "CFG scale: 2, Seed: 5, Size: 32x32, Model: dreams, Hires upscale: 2"
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", text)
    Image.new("RGB", (32, 32)).save(tmp_path / "a1111.png", pnginfo=chunks)
    return tmp_path / "a1111.png"


def test_a_picture_of_a1111_is_drawn_as_far_as_it_goes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = a1111(tmp_path)
    assert run(["replay", str(place)]) == 2
    assert "drawn by A1111 with the model dreams" in capsys.readouterr().err
    new = tmp_path / "new.png"
    assert run(["replay", str(place), "--model", str(model), "-o", str(new)]) == 0
    err = capsys.readouterr().err
    assert "LoRA owl is not loaded" in err
    assert "Hires upscale: 2 is not kept" in err
    request = read_recipe(new).request
    assert (request.prompt, request.scheduler, request.seed) == (
        "a (cat:1.2)",
        "euler-a",
        5,
    )
    assert run(["verify", str(place)]) == 2
    assert "holds no latentdiff recipe to verify; A1111 drew it" in capsys.readouterr().err
    assert run(["info", str(place)]) == 0
    assert "drawn by A1111, model dreams" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay"], "no picture was given"),
        (["verify"], "no picture was given"),
        (["replay", "CAT", "--set", "sead=4"], "did you mean 'seed'"),
        (["replay", "CAT", "--set", "seed"], "expected KEY=VALUE"),
        (["replay", "CAT", "--set", "seed=many"], "seed"),
        (["replay", "CAT", "--set", "steps=0"], "0 steps are out of range"),
        (["replay", "CAT", "--set", "strength=0.5"], "the request has no source to change"),
        (["replay", "CAT", "--model", "nothing"], "nothing"),
        (["replay", "missing.png"], "missing.png cannot be read"),
        (["replay", "CAT", "-o", "cat.gif"], "expected one of .png, .jpg"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(
    cat: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run([str(cat) if word == "CAT" else word for word in arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_lora_that_is_gone_is_one_line(
    cat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    lora = {"file": str(tmp_path / "owl.safetensors"), "sha256": "ab", "scale": 0.5}
    with Image.open(cat) as image:
        recipe = dataclasses.replace(read_recipe(cat), loras=(lora,))
        place = save_picture(image, tmp_path / "lora.png", recipe)
    assert run(["replay", str(place)]) == 2
    assert "give it by --lora FILE:0.5" in capsys.readouterr().err


# Tokens


def test_tokens_lists_each_with_its_weight_and_what_is_lost(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "a (cat:1.3) [in:on:1] the {snow|snow} AND " + "a dog " * 12 + ":0.5"
    assert run(["tokens", prompt, "--model", str(model), "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "part 1 of 2, weight 1" in out
    assert "part 2 of 2, weight 0.5" in out
    assert "steps 1 … 1 of 2: a cat in the snow" in out
    assert "steps 2 … 2 of 2: a cat on the snow" in out
    assert "1.3  cat" in out
    assert "22 tokens of 22" in out
    assert "lost to the limit: a dog; --long-prompts chunk keeps them" in out
    assert json.dumps(out).count("lost  ") == 2
