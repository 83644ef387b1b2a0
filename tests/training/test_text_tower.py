"""The text task: what its tower learns, reads and exports."""

import dataclasses

import numpy as np
import pytest
import torch
from run_task import opened, run_task
from tiny_runs import build_parts

from latentdiff.errors import UserError
from latentdiff.training.context import RunContext
from latentdiff.training.frozen import load_text_encoder
from latentdiff.training.recipes.snowglobe_parts import encode_pool
from latentdiff.training.tasks import text_task as text


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The tiny preset on a pool, an autoencoder, a CLIP and a cache of tiny size."""
    root = build_parts(tmp_path_factory.mktemp("parts"))
    encode_pool(root / "vae", root / "pool", root / "cache")
    places = {name: root / name for name in ("pool", "cache", "vae", "clip")}
    return dataclasses.replace(text.PRESETS["tiny"], **places)


@pytest.fixture(scope="module")
def task(config):
    return opened(text.TextTask, config)


def test_a_batch_is_a_function_of_the_positions_alone(task):
    together = task.batch([2, 11])
    for k, position in enumerate((2, 11)):
        alone = task.batch([position])
        for name in together:
            assert torch.equal(together[name][k], alone[name][0])


def test_at_least_the_asked_share_of_captions_is_about_two_subjects(task):
    two = [len(task._record(position).subjects) == 2 for position in range(400)]
    assert np.mean(two) > 0.35


def test_a_caption_is_read_from_its_end_on_and_nowhere_before(task):
    ids = task.tokens(["a cat in the snow"])
    _, counted = task.module.read(ids)
    end = ids[0].tolist().index(task.module.end)
    assert counted[0].tolist() == [0.0] * end + [1.0] * (ids.shape[1] - end)


def test_two_hundred_steps_halve_the_loss_of_what_they_see(config, tmp_path):
    train = dataclasses.replace(
        config.train, steps=200, batch_size=16, learning_rate=3e-3, run_dir=tmp_path / "run"
    )
    task = opened(text.TextTask, dataclasses.replace(config, train=train, directions=8))
    task._record = lambda position: task._world.record(position % 8)
    before = float(task.module(task.batch(range(64)))["loss"].detach())
    run_task(task, dataclasses.replace(train, muon_learning_rate=5e-3))
    assert float(task.module(task.batch(range(64)))["loss"].detach()) < 0.5 * before


def test_the_export_is_the_tower_of_a_stable_diffusion_folder(task, tmp_path):
    task.export(task.module, tmp_path)
    tower, tokenizer = load_text_encoder(tmp_path)
    assert len(tokenizer) == len(task.tokenizer)
    for name, weight in task.module.tower.state_dict().items():
        assert torch.equal(tower.state_dict()[name], weight), name


@pytest.mark.parametrize("missing", ["pool", "cache", "vae", "clip"])
def test_each_missing_part_is_named(config, missing, tmp_path):
    with pytest.raises(UserError, match=f"give --{missing} too"):
        text.TextTask(dataclasses.replace(config, **{missing: None}), RunContext(folder=tmp_path))


def test_more_directions_than_the_tower_is_wide_are_refused(config, tmp_path):
    with pytest.raises(UserError, match="directions is 999"):
        text.TextTask(dataclasses.replace(config, directions=999), RunContext(folder=tmp_path))
