"""Pictures on disk: the recipe inside, whole files or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from latentdiff.errors import UserError
from latentdiff.pipelines import Recipe, Request
from latentdiff.pipelines.recipes.picture_file import read_recipe, read_recipes, save_picture
from latentdiff.sheet import contact_sheet

RECIPE = Recipe(
    request=Request(prompt="a «cat»\nin the snow, 雪 \x07", seed=3, guidance_scale=7.5),
    weights_sha256={"unet": "00ff"},
    versions={"latentdiff": "0.1.0"},
)


def picture(colour: str = "red", size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_a_recipe_comes_back_whole_from_the_png(tmp_path: Path) -> None:
    path = save_picture(picture(), tmp_path / "new" / "cat.png", RECIPE)
    assert path.is_absolute()
    assert read_recipe(path) == RECIPE
    with Image.open(path) as image:
        assert image.convert("RGB").tobytes() == picture().tobytes()
        assert image.text["seed"] == "3"
        assert image.text["Description"] == RECIPE.request.prompt
        assert image.text["Software"] == "latentdiff 0.1.0"


def test_a_grid_keeps_the_recipe_of_each_of_its_pictures(tmp_path: Path) -> None:
    both = [RECIPE, Recipe(request=Request(prompt="a dog", seed=4))]
    assert read_recipes(save_picture(picture(), tmp_path / "grid.png", both)) == both


def test_a_png_of_version_0_1_is_still_read(tmp_path: Path) -> None:
    old = {
        "prompt": "a cat",
        "negative_prompt": "",
        "seed": 3,
        "num_inference_steps": 4,
        "guidance_scale": 2.0,
        "guidance_rescale": 0.0,
        "scheduler": "ddpm",
        "eta": 0.0,
        "height": 32,
        "width": 48,
        "given_latents": False,
        "dtype": "float32",
        "model": "snowglobe",
        "weights_sha256": {"unet": "00ff"},
        "versions": {"latentdiff": "0.1.0"},
    }
    for name, table in {"one": old, "grid": {**old, "grid": [old, old | {"seed": 4}]}}.items():
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("latentdiff", json.dumps(table))
        picture().save(tmp_path / f"{name}.png", pnginfo=chunks)
    recipe = read_recipe(tmp_path / "one.png")
    assert (recipe.model, recipe.weights_sha256["unet"]) == ("snowglobe", "00ff")
    assert (recipe.request.scheduler, recipe.request.width) == ("ddpm", 48)
    assert [r.request.seed for r in read_recipes(tmp_path / "grid.png")] == [3, 4]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be used"),
        ("3", "no table of keys"),
        ("[]", "no table of keys"),
        ('{"request": {"promt": "a cat"}}', "did you mean 'prompt'"),
        ('{"request": {"prompt": "a cat"}, "modle": "x"}', "did you mean 'model'"),
        ('{"request": {"schema": 99, "prompt": "a cat"}}', "a newer latentdiff wrote it"),
        ("[" * 100_000, "cannot be used"),
    ],
    ids=lambda value: value[:40],
)
def test_a_damaged_recipe_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("latentdiff", text)
    picture().save(tmp_path / "cat.png", pnginfo=chunks)
    with pytest.raises(UserError, match=said) as caught:
        read_recipe(tmp_path / "cat.png")
    assert "\n" not in str(caught.value)


def test_a_failed_save_leaves_what_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_picture(picture(), tmp_path / "cat.png", RECIPE)
    before = path.read_bytes()

    def stop(self: Image.Image, place: Path, **_: Any) -> None:
        Path(place).write_bytes(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        save_picture(picture("blue"), path, RECIPE)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["cat.png"]


def test_a_folder_is_no_place_for_a_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        save_picture(picture(), tmp_path, RECIPE)


def test_what_holds_no_recipe_is_said_so(tmp_path: Path) -> None:
    picture().save(tmp_path / "bare.png")
    (tmp_path / "text.png").write_text("no picture")
    whole = save_picture(picture(size=(64, 64)), tmp_path / "whole.png", RECIPE)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:60])
    for name, said in {
        "bare.png": "holds no latentdiff recipe",
        "text.png": "cannot be read as a PNG",
        "cut.png": "cut.png",
        "missing.png": "cannot be read",
    }.items():
        with pytest.raises(UserError, match=said):
            read_recipe(tmp_path / name)


@pytest.mark.parametrize(
    ("count", "columns", "size"),
    [
        (1, None, (6, 4)),
        (2, None, (16, 4)),
        (4, None, (16, 12)),
        (5, None, (26, 12)),
        (3, 1, (6, 20)),
    ],
)
def test_a_grid_is_as_near_to_a_square_as_it_goes(
    count: int, columns: int | None, size: tuple[int, int]
) -> None:
    assert contact_sheet([picture()] * count, columns, margin=0).size == size


def test_a_grid_keeps_the_order_row_by_row() -> None:
    sheet = contact_sheet(
        [picture(c) for c in ("red", "lime", "blue")], margin=0, ground=(255, 255, 255)
    )
    assert [sheet.getpixel(at) for at in ((0, 0), (10, 0), (0, 8), (10, 8))] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    ]
