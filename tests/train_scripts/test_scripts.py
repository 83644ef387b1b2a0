"""Every training script, as a user calls it: presets, overrides, dry run, mistakes."""

import dataclasses
import importlib
import re
import subprocess
import sys
from typing import get_type_hints

import pytest

from latentdiff.cli import main as cli
from latentdiff.data.rendered.pixel_pool import build_pool
from latentdiff.training.tasks.clip_task import ClipConfig
from latentdiff.training.tasks.text_to_image import TextToImageConfig
from latentdiff.training.tasks.vae_task import VaeConfig

SCRIPTS = {
    "vae": "vae_task",
    "clip": "clip_task",
    "text": "text_task",
    "text_to_image": "text_to_image",
    "judge": "judge_task",
}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("preset", ["cpu", "h100", "tiny"])
def test_every_preset_is_a_valid_config(name, preset):
    module = importlib.import_module(f"latentdiff.training.tasks.{SCRIPTS[name]}")
    assert module.PRESETS[preset].train.batch_size > 0


def test_train_lists_its_tasks_and_names_the_nearest(capsys):
    assert cli.run(["train", "--help"]) == 0
    assert "text-to-image" in capsys.readouterr().out
    assert cli.run(["train", "text-to-img"]) == 2
    assert "did you mean 'text-to-image'" in capsys.readouterr().err


def test_a_dry_run_prints_the_config_and_writes_nothing(tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--preset", "tiny", "--dry-run", "--batch-size", "2", "--run-dir", str(run)]
    assert cli.run(["train", "vae", *options]) == 0
    out = capsys.readouterr().out
    assert "batch_size: 2" in out
    assert "learning rate" in out
    assert not run.exists()


def test_an_unknown_option_is_one_line(capsys):
    assert cli.run(["train", "clip", "--preset", "tiny", "--learning-rat", "1"]) == 2
    err = capsys.readouterr().err
    assert "learning-rat" in err
    assert "Traceback" not in err


def test_vae_and_clip_train_then_the_unet_which_resumes_and_is_not_overwritten(tmp_path, capsys):
    build_pool(tmp_path / "pool", world_seed=0, count=8, workers=1, size=32)
    pool = ["--pool", str(tmp_path / "pool")]

    def train(task, *more, code=0):
        folder = str(tmp_path / task)
        command = ["train", task, "--preset", "tiny", "--run-dir", folder, *pool, *more]
        assert cli.run(command) == code
        return capsys.readouterr()

    train("vae", "--steps", "2")
    train("clip", "--steps", "2")
    parts = ["--vae", str(tmp_path / "vae"), "--clip", str(tmp_path / "clip")]
    train("text-to-image", *parts, "--steps", "2")
    assert "done: step 2" in train("text-to-image", *parts, "--steps", "2", "--resume").out
    exported = tmp_path / "text-to-image" / "export"
    assert (exported / "model_index.json").is_file()
    assert (tmp_path / "text-to-image" / "checkpoints" / "step-00000002").is_dir()
    said = train("text-to-image", *parts, "--steps", "2", code=2)
    assert "--resume" in said.err


@pytest.mark.slow
def test_the_recipe_makes_the_whole_model_and_ships_another_from_its_checkpoint(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "latentdiff.train_scripts.snowglobe"]
    run = ["--networks", "tiny", "--size", "32", "--run-dir", str(tmp_path / "run")]
    run += ["--scenes", "300", "--judge-scenes", "256", "--workers", "2"]
    log = subprocess.run([*command, *run], capture_output=True, text=True)
    assert log.returncode == 0, log.stdout + log.stderr
    assert (tmp_path / "run" / "snowglobe" / "judge").is_dir()
    again = subprocess.run([*command, *run], capture_output=True, text=True)
    assert "text_to_image: done before" in again.stdout
    shipped = subprocess.run(
        [*command, *run, "--ship", "v1", "--ship-steps", "2"], capture_output=True, text=True
    )
    assert shipped.returncode == 0, shipped.stdout + shipped.stderr
    assert (tmp_path / "run" / "v1" / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("task", "config"),
    [("text-to-image", TextToImageConfig), ("vae", VaeConfig), ("clip", ClipConfig)],
)
def test_help_shows_what_people_use_first_and_help_all_every_option_under_a_title(
    task, config, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "90")
    first = [f"--{name.replace('_', '-')}" for name in config.HELP_FIRST]
    short, whole = (help_text(task, flag, capsys) for flag in ("--help", "--help-all"))
    assert flags(groups_of(short)["Most used:"]) == first
    assert len(short.splitlines()) < 60
    groups = groups_of(whole)
    assert flags(groups["Most used:"]) == first
    assert "Your own images:" in groups and "Options:" not in groups
    general = ["--preset", "--config", "--help-all"]
    listed = flags(whole[whole.index("Most used:") :])
    assert len(listed) == len(set(listed)) == count(config) + len(general)
    assert f"--help-all lists {count(config) - len(first)} more" in short


def help_text(task, flag, capsys):
    """What a task's help prints."""
    with pytest.raises(SystemExit) as stop:
        cli.run(["train", task, flag])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 90
    return text


def groups_of(text):
    """Title -> the lines below it."""
    text = text[text.index("Most used:") :]  # the description is above
    titles = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert len(titles) == len(set(titles))
    return dict(zip(titles, re.split(r"^[^ \n].*:\n", text, flags=re.M)[1:], strict=True))


def flags(text):
    return re.findall(r"^  (--[a-z0-9-]+)", text, flags=re.M)


def count(config):
    """Options of a config and of those nested in it."""
    nested = [hint for hint in get_type_hints(config).values() if dataclasses.is_dataclass(hint)]
    return len(dataclasses.fields(config)) - len(nested) + sum(map(count, nested))
