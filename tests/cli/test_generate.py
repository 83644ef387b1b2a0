"""`latentdiff generate`: files with recipes, words about words, and one line for a mistake."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from PIL import Image

from latentdiff.cli.draw.generate import slug
from latentdiff.cli.main import run
from latentdiff.pipelines import TextToImagePipeline
from latentdiff.pipelines.recipes.picture_file import read_recipe, read_recipes

VOCABULARY = ["a", "an", "in", "the", "on", "at", "cat", "dog", "owl", "snow", "night", "penguin"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = {"vocabulary": VOCABULARY, "num_inference_steps": 2, "guidance_scale": 2.0}
    return tiny.save(tiny.with_card(tiny.tiny(), **card), tmp_path_factory.mktemp("m") / "tiny")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files without a named place land in a fresh folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def generate(model: Path, *arguments: str) -> int:
    return run(["generate", *arguments, "--model", str(model), "--device", "cpu"])


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_picture_lies_where_it_is_said_with_the_complete_recipe(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "new" / "cat.png"
    options = ["--seed", "3", "--scheduler", "ddpm", "--steps", "3", "--negative-prompt", "a dog"]
    assert generate(model, "a cat in the snow", "-o", str(place), *options) == 0
    out, err = capsys.readouterr()
    assert out == f"{place}\n"
    assert err == ""
    recipe = read_recipe(place)
    told = {
        "prompt": "a cat in the snow",
        "negative_prompt": "a dog",
        "seed": 3,
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "scheduler": "ddpm",
        "height": 32,
        "width": 32,
    }
    asked = recipe.request.to_json()
    assert {key: asked[key] for key in told} == told
    assert (recipe.dtype, recipe.device, recipe.model) == ("float32", "cpu", str(model))
    assert all(len(digest) == 64 for digest in recipe.weights_sha256.values())
    assert set(recipe.versions) >= {"latentdiff", "torch", "diffusers", "transformers"}
    (again,) = TextToImagePipeline.from_pretrained(recipe.model).draw([recipe.request])
    with Image.open(place) as image:
        assert image.convert("RGB").tobytes() == again.image.tobytes()


def test_default_names_come_from_prompt_and_seed_and_never_overwrite(
    model: Path, elsewhere: Path
) -> None:
    for _ in range(2):
        assert generate(model, "A cat, in the SNOW!", "--seed", "7") == 0
    assert names(elsewhere) == ["a-cat-in-the-snow-7-2.png", "a-cat-in-the-snow-7.png"]


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "/", "", "x" * 500, "雪の中の猫"])
def test_no_prompt_makes_a_name_that_leaves_the_folder(
    model: Path, elsewhere: Path, prompt: str
) -> None:
    assert generate(model, prompt, "--seed", "7", "--steps", "1") == 0
    (name,) = names(elsewhere)
    assert len(name.encode()) < 256
    assert read_recipe(elsewhere / name).request.prompt == prompt


def test_names_hold_no_letter_that_the_system_cannot_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert slug("a 猫 café, \udcff") == "a-猫-café"
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert slug("a 猫 café") == "a-caf"
    assert slug("猫") == "picture"


def test_prompts_come_from_the_line_and_from_a_file_and_seeds_count_up(
    model: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "prompts.txt"
    listed.write_text("\ufeffan owl at night\n\n# a remark\n  a dog  \n", "utf-8")
    folder = tmp_path / "out"
    folder.mkdir()
    options = ["--prompts", str(listed), "--num-images", "2", "--seed", "4", "--batch-size", "4"]
    assert generate(model, "a cat", *options, "-o", str(folder)) == 0
    assert names(folder) == [
        "a-cat-4.png",
        "a-cat-5.png",
        "a-dog-8.png",
        "a-dog-9.png",
        "an-owl-at-night-6.png",
        "an-owl-at-night-7.png",
    ]
    assert read_recipe(folder / "a-dog-9.png").request.prompt == "a dog"
    assert generate(model, "a dog", "--seed", "9", "-o", str(tmp_path / "one.png")) == 0
    with Image.open(tmp_path / "one.png") as one, Image.open(folder / "a-dog-9.png") as other:
        left, right = one.convert("RGB").tobytes(), other.convert("RGB").tobytes()
    assert max(abs(a - b) for a, b in zip(left, right, strict=True)) <= 1


def test_several_pictures_of_one_file_name_get_their_seeds(model: Path, tmp_path: Path) -> None:
    place = tmp_path / "out" / "cat.png"
    assert generate(model, "a cat", "--num-images", "2", "--seed", "4", "-o", str(place)) == 0
    assert names(place.parent) == ["cat-4.png", "cat-5.png"]


def test_a_grid_is_one_picture_with_all_recipes(model: Path, tmp_path: Path) -> None:
    place = tmp_path / "grid.png"
    options = ["--num-images", "2", "--seed", "4", "--grid", "--batch-size", "3"]
    assert generate(model, "a cat", "a dog", *options, "-o", str(place)) == 0
    with Image.open(place) as image:
        assert image.size == (68, 68)
    requests = [recipe.request for recipe in read_recipes(place)]
    assert [(r.prompt, r.seed) for r in requests] == [
        ("a cat", 4),
        ("a cat", 5),
        ("a dog", 6),
        ("a dog", 7),
    ]
    assert names(tmp_path) == ["grid.png", "here"]


@pytest.mark.parametrize(("suffix", "kind"), [("jpg", "JPEG"), ("webp", "WEBP")])
def test_other_formats_hold_the_recipe_too(
    model: Path, elsewhere: Path, suffix: str, kind: str
) -> None:
    assert generate(model, "a cat", "--seed", "4", "--output-format", suffix) == 0
    assert generate(model, "a cat", "--seed", "4", "-o", f"named.{suffix}") == 0
    assert names(elsewhere) == [f"a-cat-4.{suffix}", f"named.{suffix}"]
    for name in names(elsewhere):
        assert read_recipe(elsewhere / name).request.seed == 4
        with Image.open(elsewhere / name) as image:
            assert image.format == kind


def test_choices_are_drawn_by_the_seed_and_name_the_file(model: Path, elsewhere: Path) -> None:
    (elsewhere / "lists").mkdir()
    (elsewhere / "lists" / "animal.txt").write_text("cat\ndog\nowl\n")
    options = ["--word-lists", "lists", "--num-images", "6", "--seed", "0", "--steps", "1"]
    assert generate(model, "a __animal__", *options) == 0
    requests = [read_recipe(path).request for path in sorted(elsewhere.glob("*.png"))]
    assert {r.prompt for r in requests} == {"a cat", "a dog", "a owl"}
    assert {r.template for r in requests} == {"a __animal__"}
    assert all(p.name.startswith(("a-cat-", "a-dog-", "a-owl-")) for p in elsewhere.glob("*.png"))


def test_words_of_the_language_are_not_unknown_words(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model, "a (cat:1.2) [in:on:1] the snow AND an owl", "--steps", "2") == 0
    assert capsys.readouterr().err == ""


def test_an_explained_picture_has_its_words_beside_it(model: Path, tmp_path: Path) -> None:
    place = tmp_path / "cat.png"
    assert generate(model, "a cat", "a dog", "-o", str(place), "--seed", "2", "--explain") == 0
    assert names(tmp_path) == [
        *("cat-2-words.png", "cat-2.png", "cat-3-words.png", "cat-3.png", "here"),
    ]
    assert read_recipe(tmp_path / "cat-3.png").request.prompt == "a dog"


def test_a_drawn_seed_is_told(model: Path, elsewhere: Path) -> None:
    assert generate(model, "a cat") == 0
    (name,) = names(elsewhere)
    assert name == f"a-cat-{read_recipe(elsewhere / name).request.seed}.png"


def test_words_lost_to_the_limit_are_printed(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model, " ".join(["cat"] * 22) + " snow night", "--steps", "1") == 0
    assert "limit: snow night" in capsys.readouterr().err


def test_unknown_words_are_named_with_the_nearest_known(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model, "a pengiun in the snow", "--steps", "1") == 0
    err = capsys.readouterr().err
    assert "'pengiun'; nearest: penguin" in err
    assert "latentdiff info" in err
    assert generate(model, "a penguin in the snow", "--steps", "1") == 0
    assert capsys.readouterr().err == ""


def test_a_safety_checker_is_named_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.save(tiny.tiny(), tmp_path / "checked")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert generate(folder, "a cat", "--steps", "1") == 0
    assert capsys.readouterr().err.count("note: the safety_checker of") == 1


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scheduler", "dimm"], "did you mean 'ddim'"),
        (["--height", "30"], "multiple of 4"),
        (["--width", "33"], "multiple of 4"),
        (["--steps", "0"], "0 steps are out of range; expected 1"),
        (["--steps", "1001"], "1001 steps"),
        (["--steps", "many"], "many"),
        (["--seed", "-2"], "seed -2"),
        (["--seed", "4294967296"], "32 bits, so 0 draws"),
        (["--clip-skip", "-1"], "clip_skip -1"),
        (["--clip-skip", "99"], "clip_skip is 99"),
        (["--eta", "9"], "eta"),
        (["--guidance-scale", "-2"], "guidance scale"),
        (["--num-images", "0"], "num_images is 0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--device", "cuda"], "cuda"),
        (["--dtype", "float16"], "float16 is for GPUs"),
        (["--dtype", "float8"], "float8"),
        (["--stepz", "3"], "stepz"),
        (["--prompts", "missing.txt"], "cannot read the prompts in missing.txt"),
        (["--output-format", "webp"], "names a png; leave one out"),
        (["--word-lists", "missing"], "missing is no folder"),
        (["--explain", "--grid"], "leave --grid out"),
        (["--prompt-syntax", "a111"], "a111"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_nothing_is_overwritten(
    model: Path,
    tmp_path: Path,
    elsewhere: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    import torch

    if arguments == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has one")
    place = tmp_path / "cat.png"
    place.write_bytes(b"what stood there")
    order = [f"--device={d}" for d in ("cpu",) if "--device" not in arguments]
    command = ["generate", "a cat", "-o", str(place), "--model", str(model), *order, *arguments]
    assert run(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("latentdiff: error: ")
    assert err.count("\n") == 1
    assert said in err
    assert place.read_bytes() == b"what stood there"
    assert names(elsewhere) == []
    assert names(tmp_path) == ["cat.png", "here"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "0"],
        ["--scheduler", "foo"],
        ["--width", "0"],
        ["--height", "-8"],
        ["--guidance-scale", "-1"],
        ["--seed", "4294967296"],
        ["--batch-size", "0"],
    ],
    ids=" ".join,
)
def test_a_bad_value_is_refused_before_torch_is_loaded(arguments: list[str]) -> None:
    code = (
        "import sys; from latentdiff.cli.main import run; "
        f"assert run(['generate', 'a cat', *{arguments!r}]) == 2; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_seed_minus_one_draws_a_seed(model: Path, elsewhere: Path) -> None:
    assert generate(model, "a cat", "--seed", "-1", "--num-images", "2", "--steps", "1") == 0
    first, second = sorted(read_recipe(p).request.seed or 0 for p in elsewhere.iterdir())
    assert first >= 0
    assert second == first + 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--guidance-scale", "1", "--negative-prompt", "a dog"], "negative prompt has no effect"),
        (["--guidance-scale", "0"], "guidance scale 0 draws what 1 draws"),
        (["--width", "48"], "made for 32 x 32 pixels; 48 x 32"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_setting_that_does_less_than_it_promises_is_noted(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert generate(model, "a cat", "--steps", "1", *arguments) == 0
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 1
    assert said in notes[0]


def test_a_lora_in_the_prompt_is_noted_with_the_option_that_brings_it(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model, "a cat <lora:owl:0.8>", "--steps", "1") == 0
    assert "give the file by --lora owl.safetensors:0.8" in capsys.readouterr().err


def test_a_terminal_shows_what_is_being_done(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert generate(model, "a cat", "--steps", "3", "--num-images", "2") == 0
    shown = [line.strip() for line in capsys.readouterr().err.split("\r") if line.strip()]
    assert shown[0] == f"loading {model} …"
    assert shown[1] == "encoding the prompts …"
    assert [line.partition(",")[0] for line in shown[2:]] == [
        "pictures 1 … 2 of 2: step 1 of 3",
        "pictures 1 … 2 of 2: step 2 of 3",
        "pictures 1 … 2 of 2: decoding …",
    ]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.startswith("latentdiff: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("path", ["nothing", "./no/such/model", "snowglob", "here/cat.png"])
def test_a_wrong_model_path_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    assert generate(Path(path), "a cat", "-o", str(tmp_path / "cat.png")) == 2
    assert path.removeprefix("./").split("/", maxsplit=1)[0] in one_line(capsys)
    assert names(tmp_path) == ["here"]


def test_a_prompt_keeps_characters_that_only_python_ends_lines_at(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_bytes("a cat\u2028in\x0bthe snow\r\na dog\r\n".encode("utf-16"))
    options = ["--prompts", str(tmp_path / "p.txt"), "--seed", "1", "--steps", "1"]
    assert generate(model, *options, "-o", f"{tmp_path}/new.v2/") == 0
    found = [read_recipe(p).request.prompt for p in sorted((tmp_path / "new.v2").iterdir())]
    assert found == ["a cat\u2028in\x0bthe snow", "a dog"]


def test_prompts_come_from_standard_input(
    model: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a cat\na dog\n")))
    assert generate(model, "--prompts", "-", "--seed", "1", "--steps", "1") == 0
    assert names(elsewhere) == ["a-cat-1.png", "a-dog-2.png"]


@pytest.mark.parametrize("text", ["", "\n  \n# only a remark\n"])
def test_an_empty_file_of_prompts_is_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "p.txt").write_text(text)
    assert generate(model, "--prompts", str(tmp_path / "p.txt")) == 2
    assert "holds no prompt; expected one on each line" in one_line(capsys)


def test_a_file_of_prompts_that_is_no_text_is_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00\xd8")
    assert generate(model, "--prompts", str(tmp_path / "p.txt")) == 2
    assert "cannot read the prompts" in one_line(capsys)


def test_no_prompt_is_one_line_with_an_example(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model) == 2
    assert 'latentdiff generate "a cat in the snow"' in one_line(capsys)


@pytest.mark.parametrize("place", ["file.txt/cat.png", "/proc/cat.png", "cat.gif", "cat"])
def test_a_place_that_cannot_be_written_is_one_line_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file.txt").write_text("a file")
    assert generate(tmp_path / "no model", "a cat", "-o", str(tmp_path / place)) == 2
    assert place.rsplit("/", maxsplit=1)[0] in one_line(capsys)
    assert names(tmp_path) == ["file.txt", "here"]


def test_ctrl_c_while_drawing_ends_with_130_and_leaves_no_file(
    model: Path,
    tmp_path: Path,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    walk = TextToImagePipeline.walk

    def interrupted(self: TextToImagePipeline, batch: Any) -> Iterator[Any]:
        yield next(walk(self, batch))
        raise KeyboardInterrupt

    monkeypatch.setattr(TextToImagePipeline, "walk", interrupted)
    place = tmp_path / "cat.png"
    place.write_bytes(b"what stood there")
    assert generate(model, "a cat", "-o", str(place)) == 130
    assert capsys.readouterr().err == "latentdiff: stopped\n"
    assert place.read_bytes() == b"what stood there"
    assert names(tmp_path) == ["cat.png", "here"]
    assert names(elsewhere) == []


def test_a_picture_that_cannot_be_finite_is_one_line_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    from latentdiff.models.autoencoder import Autoencoder

    decode = Autoencoder.decode
    monkeypatch.setattr(Autoencoder, "decode", lambda self, x: decode(self, x) * float("nan"))
    assert generate(model, "a cat", "-o", str(tmp_path / "cat.png")) == 2
    assert "the autoencoder's decoder gave NaN" in one_line(capsys)
    assert names(tmp_path) == ["here"]
