"""`latentdiff lora` and `latentdiff generate --lora`: words, files, and one line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import loras
import pytest
import tiny
from PIL import Image
from safetensors.torch import load_file

from latentdiff.cli.main import run
from latentdiff.files import sha256_file
from latentdiff.models import bundle as bundles
from latentdiff.models.lora.formats import KOHYA_NAME, PEFT_NAME
from latentdiff.models.lora.layers import base_of
from latentdiff.pipelines.recipes.picture_file import read_recipe

CARD = {"vocabulary": ["a", "in", "the", "cat", "snow"], "num_inference_steps": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tiny.with_card(tiny.tiny(), **CARD, guidance_scale=2.0)
    return tiny.save(bundle, tmp_path_factory.mktemp("m") / "tiny")


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both files of one LoRA."""
    bundle = bundles.load(model)
    place = tmp_path_factory.mktemp("loras")
    told = base_of(bundle) | {"trigger_words": ("zorb",), "training_prompt": "a zorb"}
    loras.saved(loras.trained(bundle, targets="all"), place, **told)
    return place


def draw(model: Path, place: Path, *options: str, prompt: str = "a cat in the snow") -> bytes:
    line = ["generate", prompt, "--model", str(model), "--seed", "3", "--device", "cpu"]
    assert run([*line, *options, "-o", str(place)]) == 0
    with Image.open(place) as image:
        return image.convert("RGB").tobytes()


def far(one: bytes, other: bytes) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_a_lora_changes_the_picture_by_its_scale_and_the_recipe_names_it(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / PEFT_NAME
    plain = draw(model, tmp_path / "0.png")
    assert capsys.readouterr().err == ""
    full = draw(model, tmp_path / "1.png", "--lora", str(file))
    said = capsys.readouterr().err
    assert said == f"lora: {PEFT_NAME}: 91 layers changed, scale 1; trigger words: zorb\n"
    assert far(plain, full) > 10
    assert draw(model, tmp_path / "2.png", "--lora", f"{file}:0") == plain
    half = draw(model, tmp_path / "3.png", "--lora", f"{folder}:0.5")
    halves = ["--lora", f"{file}:0.25", "--lora", f"{folder / KOHYA_NAME}:0.25"]
    assert far(half, draw(model, tmp_path / "4.png", *halves)) <= 1
    assert far(half, full) > 5
    recipe = read_recipe(tmp_path / "4.png")
    assert [(lora["file"], lora["scale"]) for lora in recipe.loras] == [
        (str(file), 0.25),
        (str(folder / KOHYA_NAME), 0.25),
    ]
    assert recipe.loras[0]["sha256"] == sha256_file(file)
    assert read_recipe(tmp_path / "0.png").loras == ()


def test_a_trigger_word_is_no_strange_word(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(model, tmp_path / "0.png", prompt="a zorb in the snow")
    assert "its captions never held 'zorb'" in capsys.readouterr().err
    draw(model, tmp_path / "1.png", "--lora", str(folder), prompt="a zorb in the snow")
    assert "never held" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere.safetensors", "no LoRA at nowhere.safetensors"),
        ("nowhere.safetensors:x", "is no scale"),
        ("nowhere.safetensors:inf", "finite"),
    ],
)
def test_a_wrong_lora_is_one_line_before_the_model_loads(
    given: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", "a cat", "--model", "/nowhere", "--lora", given]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_inspect_tells_what_is_inside_and_what_fits(
    model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lora", "inspect", str(folder / KOHYA_NAME), "--model", str(model)]) == 0
    out = capsys.readouterr().out
    for words in (
        "layout of kohya",
        f"SHA-256 {sha256_file(folder / KOHYA_NAME)}",
        "U-Net: 79 layers of LoRA, 31 of them convolutions",
        "text encoder: 12 layers of LoRA, 0 of them convolutions",
        "rank 4, alpha 6, stored in float32",
        "trained on: tiny",
        "trigger words: zorb",
        "training prompt: a zorb",
        "91 layers fit, 0 do not",
        "trained on it: yes",
    ):
        assert words in out


def test_convert_and_convert_back_keep_every_tensor(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert run(["lora", "convert", str(folder / PEFT_NAME), "-o", str(there)]) == 0
    assert run(["lora", "convert", str(there), "-o", str(back)]) == 0
    assert capsys.readouterr().out == f"{there}\n{back}\n"
    assert there.read_bytes() == (folder / KOHYA_NAME).read_bytes()
    one, other = load_file(folder / PEFT_NAME), load_file(back)
    assert one.keys() == other.keys()
    assert all(bool((one[name] == other[name]).all()) for name in one)


def test_convert_names_its_file_by_the_layout_and_never_writes_over_its_source(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "owl.safetensors"
    source.write_bytes((folder / PEFT_NAME).read_bytes())
    assert run(["lora", "convert", str(source)]) == 0
    assert run(["lora", "convert", str(tmp_path / "owl.kohya.safetensors")]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "owl.kohya.safetensors",
        "owl.peft.safetensors",
        "owl.safetensors",
    ]
    assert run(["lora", "convert", str(source), "-o", str(source)]) == 2
    assert "is the file that is read" in capsys.readouterr().err


def test_merge_makes_a_plain_model_that_draws_the_same_and_knows_the_word(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "merged"
    line = ["lora", "merge", f"{folder}:0.5", "--model", str(model), "-o", str(place)]
    assert run(line) == 0
    assert capsys.readouterr().out == f"{place}\n"
    with_file = draw(model, tmp_path / "1.png", "--lora", f"{folder}:0.5")
    assert far(draw(place, tmp_path / "2.png"), with_file) <= 1
    card = json.loads((place / "snowglobe.json").read_text())
    assert card["vocabulary"] == [*CARD["vocabulary"], "zorb"]  # type: ignore[misc]
    assert card["merged_loras"][0]["scale"] == 0.5
    assert run(line) == 2
    assert "exists" in capsys.readouterr().err


def test_merge_stores_what_the_base_stores(tmp_path: Path, folder: Path) -> None:
    import torch

    half = tiny.save(tiny.tiny(), tmp_path / "half", dtype=torch.float16)
    assert run(["lora", "merge", str(folder), "--model", str(half), "-o", str(tmp_path / "m")]) == 0
    merged = bundles.load(tmp_path / "m", dtype=None)
    assert {merged.unet.dtype, merged.text_encoder.dtype, merged.vae.dtype} == {torch.float16}
    options = ["--dtype", "float32", "--model", str(half), "-o", str(tmp_path / "n")]
    assert run(["lora", "merge", str(folder), *options]) == 0
    assert bundles.load(tmp_path / "n", dtype=None).unet.dtype == torch.float32


@pytest.mark.parametrize("line", [["lora"], ["lora", "merge", "x.safetensors"], ["lora", "mrge"]])
def test_a_wrong_line_is_answered_in_words(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 2
    out, err = capsys.readouterr()
    assert "latentdiff lora" in out or "lora action 'mrge'" in err or "LoRA" in err
