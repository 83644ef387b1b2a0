"""Pictures from pictures, sweeps, interpolation and long runs, as a user asks for them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from PIL import Image, ImageDraw

from latentdiff.cli.main import run
from latentdiff.cli.stages import Stages
from latentdiff.pipelines.recipes.picture_file import read_recipe, read_recipes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = {"num_inference_steps": 2, "guidance_scale": 2.0}
    return tiny.save(tiny.with_card(tiny.tiny(), **card), tmp_path_factory.mktemp("m") / "tiny")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = Image.linear_gradient("L").resize((40, 32)).convert("RGB")
    image.save(tmp_path / "in.png")
    return tmp_path / "in.png"


def command(model: Path, *arguments: object) -> int:
    return run([*map(str, arguments), "--model", str(model), "--device", "cpu"])


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_mask_keeps_what_is_black_and_the_recipe_holds_both_files(
    model: Path, tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = Image.new("L", (40, 32))
    ImageDraw.Draw(mask).ellipse((10, 5, 30, 25), fill=255)
    mask.save(tmp_path / "mask.png")
    out = tmp_path / "out.png"
    options = ["--mask", tmp_path / "mask.png", "--strength", 0.5, "--seed", 1]
    assert command(model, "generate", "a cat", "--image", picture, *options, "-o", out) == 0
    assert "strength 0.5: 1 of 2 steps are walked" in capsys.readouterr().err
    with Image.open(out) as drawn, Image.open(picture) as given:
        kept = np.asarray(mask) == 0
        assert np.array_equal(np.asarray(drawn.convert("RGB"))[kept], np.asarray(given)[kept])
    source = read_recipe(out).request.source
    assert source is not None and source.inpaint is not None
    assert len(source.image_sha256) == len(source.inpaint.mask_sha256) == 64


def test_an_edit_prints_how_well_the_picture_comes_back(
    model: Path, tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--image", picture, "--edit", "a dog", "--exact", "-o", tmp_path / "dog.png"]
    assert command(model, "generate", "a cat", *options) == 0
    assert "inversion: back at the picture it differs by" in capsys.readouterr().err
    request = read_recipe(tmp_path / "dog.png").request
    assert request.prompt == "a dog"
    assert request.source is not None and request.source.inversion is not None
    assert request.source.inversion.prompt == "a cat"


def test_variations_share_a_seed_and_go_towards_others(model: Path, tmp_path: Path) -> None:
    options = ["--num-images", 2, "--seed", 4, "--variation-seed", 9]
    out = tmp_path / "cat.png"
    given = ["generate", "a cat", *options, "--variation-strength", 0.2, "-o", out]
    assert command(model, *given) == 0
    assert names(tmp_path) == ["cat-4-towards-10.png", "cat-4-towards-9.png"]


def test_a_sweep_is_a_labelled_grid_that_goes_on_where_it_stopped(
    model: Path, tmp_path: Path
) -> None:
    axes = ["--sweep", "guidance_scale=1,3,7", "--sweep", "steps=1,2"]
    given = ["generate", "a cat", "--seed", 1, *axes, "-o", tmp_path / "grid.png"]
    assert command(model, *given) == 0
    recipes = read_recipes(tmp_path / "grid.png")
    asked = [(r.request.guidance_scale, r.request.num_inference_steps) for r in recipes]
    assert asked == [(1, 1), (3, 1), (7, 1), (1, 2), (3, 2), (7, 2)]
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 3 * 32 and grid.height > 2 * 32
    cells = tmp_path / "grid-cells"
    before = {p.name: p.stat().st_mtime_ns for p in cells.iterdir()}
    assert len(before) == 6
    removed, damaged, *rest = sorted(before)
    (cells / removed).unlink()
    (cells / damaged).write_bytes(b"half a file")
    assert command(model, *given) == 0
    after = {p.name: p.stat().st_mtime_ns for p in cells.iterdir()}
    assert {n for n in rest if after[n] == before[n]} == set(rest)
    assert read_recipe(cells / removed) and read_recipe(cells / damaged)


def test_a_long_run_goes_on_where_it_stopped_and_each_picture_is_the_one_drawn_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "prompts.txt"
    listed.write_text("a cat\na dog\nan owl\na fox\na robot\n")
    given = ["generate", "--prompts", listed, "--seed", 5, "--resume", "-o", tmp_path / "all"]
    assert command(model, *given) == 0
    assert names(tmp_path / "all") == [
        "a-cat-5.png",
        "a-dog-6.png",
        "a-fox-8.png",
        "a-robot-9.png",
        "an-owl-7.png",
    ]
    whole = {p.name: p.read_bytes() for p in (tmp_path / "all").iterdir()}
    (tmp_path / "all" / "a-dog-6.png").unlink()
    capsys.readouterr()
    assert command(model, *given) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / "all" / "a-dog-6.png")]
    assert "4 pictures are drawn already" in err
    with Image.open(tmp_path / "all" / "a-dog-6.png") as image:
        alone = image.convert("RGB").tobytes()
    (tmp_path / "before.png").write_bytes(whole["a-dog-6.png"])
    with Image.open(tmp_path / "before.png") as image:
        pairs = zip(image.convert("RGB").tobytes(), alone, strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1
    assert command(model, *given, "--steps", 1) == 2
    assert "holds another picture than this run would draw" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_the_run_goes_on_where_it_stopped(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed, folder = tmp_path / "prompts.txt", tmp_path / "all"
    listed.write_text("a cat\na dog\nan owl\n")
    given = ["generate", "--prompts", listed, "--seed", 5, "--resume", "-o", folder]
    whole, saved = Image.Image.save, []

    def fills_up(image: Image.Image, place: Path, **options: object) -> None:
        saved.append(place)
        if len(saved) == 2:
            Path(place).write_bytes(b"half a picture")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(image, place, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fills_up)
        assert command(model, *given) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "No space left" in err or "full" in err
    assert [p.name for p in folder.iterdir()] == ["a-cat-5.png"]
    assert command(model, *given) == 0
    assert names(folder) == ["a-cat-5.png", "a-dog-6.png", "an-owl-7.png"]


def test_a_log_gets_a_line_now_and_then_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stages = Stages(10_000)
    for place in range(40):
        now += 25.0
        step = SimpleNamespace(index=0, total=9, places=(place,))
        stages.step(step)  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 13  # one in 60 seconds, at the first step after that
    assert lines[-1] == "drawing picture 39 of 10000 (69 h 11 min left)"


def test_several_processes_share_the_pictures(model: Path, tmp_path: Path) -> None:
    listed = tmp_path / "prompts.txt"
    listed.write_text("a cat\na dog\nan owl\n")
    given = ["--prompts", str(listed), "--seed", "5", "--steps", "1", "-o", str(tmp_path / "all")]
    for rank in (0, 1):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "latentdiff.train_scripts.generate", *given),
                *("--model", str(model), "--device", "cpu"),
            ],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert len(names(tmp_path / "all")) == (2, 3)[rank]


def test_interpolation_walks_from_prompt_to_prompt_and_seed_to_seed(
    model: Path, tmp_path: Path
) -> None:
    given = ["interpolate", "a cat", "a dog", "--seeds", "3,7", "--frames", 3]
    assert command(model, *given, "-o", tmp_path / "frames") == 0
    assert names(tmp_path / "frames") == [f"frame-{k}.png" for k in range(4)]
    assert command(model, *given, "--loop", "-o", tmp_path / "way.webp", "--fps", 4) == 0
    with Image.open(tmp_path / "way.webp") as moving:
        assert (moving.n_frames, moving.size) == (6, (32, 32))  # type: ignore[attr-defined]
        moving.seek(0)
        first = moving.convert("RGB").tobytes()
    with Image.open(tmp_path / "frames" / "frame-0.png") as image:
        pairs = zip(image.convert("RGB").tobytes(), first, strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1
    assert len(read_recipes(tmp_path / "way.webp")) == 6
    blend = read_recipe(tmp_path / "frames" / "frame-1.png").request.blend
    assert blend is not None
    assert json.dumps([blend.prompt, blend.seed, round(blend.amount, 3)]) == '["a dog", 7, 0.333]'


def test_an_mp4_shows_the_frames_in_their_order(model: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="pip install 'latentdiff[video]'")
    given = ["interpolate", "a cat", "a dog", "--frames", 3, "--fps", 12.5]
    assert command(model, *given, "-o", tmp_path / "way.mp4") == 0
    assert command(model, *given, "-o", tmp_path / "frames") == 0
    with av.open(str(tmp_path / "way.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == 12.5
        shown = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(shown) == 4
    drawn = []
    for k in range(4):
        with Image.open(tmp_path / "frames" / f"frame-{k}.png") as image:
            drawn.append(np.asarray(image.convert("L"), dtype=float))
    for k, frame in enumerate(shown):  # the colours' sides are halved, brightness is not
        apart = [float(np.abs(frame - other).mean()) for other in drawn]
        assert min(apart) == apart[k] < 6


def test_an_mp4_without_its_library_names_the_command_that_installs_it(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert command(model, "interpolate", "a", "b", "-o", tmp_path / "way.mp4") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "pip install 'latentdiff[video]'" in err
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "a", "--mask", "m.png"], "--mask needs a picture to start from"),
        (["generate", "a", "--image", "no.png"], "there is no picture at no.png"),
        (["generate", "a", "--image", "no.png", "--expand", "1,2"], "LEFT,TOP,RIGHT,BOTTOM"),
        (["generate", "a", "--image", "no.png", "--strength", "2"], "strength 2.0"),
        (["generate", "a", "--exact"], "--exact"),
        (["generate", "a", "--sweep", "steps"], "expected NAME=VALUE"),
        (["generate", "a", "--sweep", "stepz=1,2"], "stepz"),
        (["generate", "a", "--resume"], "--resume needs --seed"),
        (["generate", "a", "--variation-seed", "1"], "no effect without --variation-strength"),
        (["generate", "a", "--decode-tile", "3"], "decode_tile 3"),
        (["generate", "a", "--timesteps", "999,x"], "timesteps is '999,x'"),
        (["generate", "a", "--timesteps", "500,500"], "timesteps"),
        (["generate", "a", "--timesteps", "999,1", "--steps", "3"], "3 steps and 2 timesteps"),
        (["generate", "--prompt-embeds", "no.safetensors"], "there are no contexts at no.safe"),
        (["generate", "a", "--prompt-embeds", "no.safetensors"], "give one of the two"),
        (["generate", "a", "--lora", "no:1:unet=x"], "is no scale; expected FILE"),
        (["interpolate", "a"], "give a second of either"),
        (["interpolate", "a", "b", "--seeds", "1,2,3"], "make no pairs"),
        (["interpolate", "a", "b", "-o", "x.avi"], "none of .webp"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert command(model, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("latentdiff: error: ") and err.count("\n") == 1
    assert said in err
