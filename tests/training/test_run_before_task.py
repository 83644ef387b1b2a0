"""The run comes before its task: a dry run reads no image, a replay needs no data, all know their
team."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import tiny
import torch
from own_data import contents, make_images
from run_task import opened, run_task
from together import together

from latentdiff.cli import main as cli
from latentdiff.data.buckets import BucketConfig
from latentdiff.data.sources.folders.picture_folder import FolderSource
from latentdiff.errors import UserError
from latentdiff.training.feeds.data_config import DataConfig
from latentdiff.training.optimizers.guarded_step import NonFiniteError
from latentdiff.training.positions import Positions
from latentdiff.training.run import loop
from latentdiff.training.run.processes import start
from latentdiff.training.tasks import clip_task as clip
from latentdiff.training.tasks import vae_task as vae
from latentdiff.training.tasks.text_to_image import TextToImageConfig, TextToImageTask
from latentdiff.training.train_config import TrainConfig

TRAIN = TrainConfig(
    batch_size=4,
    steps=3,
    warmup_steps=1,
    log_every=1,
    validate_every=0,
    sheet_every=0,
    validate_at_start=False,
    tensorboard=False,
    device="cpu",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.save(tiny.tiny(), tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "images")


def tasks(base, images, run_dir, **changes):
    """A task of every kind on one's own images, with its config."""
    own = DataConfig(data=str(images), validation_share=0.2, sizes=BucketConfig(upscale=True))
    train = dataclasses.replace(TRAIN, run_dir=run_dir, **changes)
    return {
        "text-to-image": (
            TextToImageTask,
            TextToImageConfig(base=str(base), pictures=own, weighting="simple", train=train),
        ),
        "vae": (vae.VaeTask, dataclasses.replace(vae.PRESETS["tiny"], pictures=own, train=train)),
        "clip": (
            clip.ClipTask,
            dataclasses.replace(clip.PRESETS["tiny"], pictures=own, train=train),
        ),
    }


@pytest.mark.parametrize("kind", ["text-to-image", "vae", "clip"])
def test_a_dry_run_reads_no_image_and_writes_nothing(
    kind, base, images, tmp_path, monkeypatch, capsys
):
    run_dir, cache = tmp_path / "run", tmp_path / "cache"
    run_dir.mkdir()
    (run_dir / "bad_samples.jsonl").write_text('{"id": "of the last attempt"}\n')
    task_class, config = tasks(base, images, run_dir, dry_run=True)[kind]
    if kind == "text-to-image":
        config = dataclasses.replace(config, cache=cache)

    def read(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr(FolderSource, "read", read)
    before = contents(tmp_path)
    result = loop.run(
        lambda context: task_class(config, context), config.train, name=kind, settings=config
    )
    assert result.stopped == "dry run" and contents(tmp_path) == before and not cache.exists()
    assert "trained" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["text-to-image", "vae", "clip"])
def test_a_stopped_step_is_replayed_without_the_data(kind, base, tmp_path, capsys):
    images = make_images(tmp_path / "images")
    task_class, config = tasks(base, images, tmp_path / "run", steps=2)[kind]
    task = opened(task_class, config)
    trained = [p for p in task.module.parameters() if p.requires_grad]
    parameter = max(trained, key=torch.numel)
    with torch.no_grad():
        parameter.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="latentdiff debug"):
        run_task(task, config.train, settings=config)
    shutil.rmtree(images)
    capsys.readouterr()
    assert cli.run(["debug", str(tmp_path / "run")]) == 0
    assert "not finite" in capsys.readouterr().out


def test_a_task_is_told_its_folder_device_and_positions(base, images, tmp_path):
    task_class, config = tasks(base, images, tmp_path / "run")["vae"]
    told = []

    def build(context):
        told.append(context)
        assert (tmp_path / "run" / ".lock").exists()
        return task_class(config, context)

    loop.run(build, config.train, name="vae", settings=config)
    (context,) = told
    assert context.folder == tmp_path / "run" and context.device.type == "cpu"
    assert context.team.world_size == 1 and context.is_main
    assert context.positions == Positions(begin_step=0, begin_position=0, batch_size=4)


def test_all_processes_of_a_run_are_one_team_with_one_token(tmp_path):
    def ask(rank):
        processes = start(TrainConfig(device="cpu"))
        teams = [processes.team() for _ in range(2)]
        assert [(team.rank, team.world_size) for team in teams] == [(rank, 2)] * 2
        (tmp_path / str(rank)).write_text(" ".join(team.token for team in teams))

    together(ask, tmp_path / "logs", ACCELERATE_USE_CPU="true")
    first, second = ((tmp_path / str(rank)).read_text() for rank in range(2))
    assert first == second and len(set(first.split())) == 2


@pytest.mark.parametrize(("begin", "micro", "processes"), [(0, 1, 1), (0, 2, 2), (24, 3, 2)])
def test_a_sample_is_found_in_its_process_share(begin, micro, processes):
    for rank in range(processes):
        positions = Positions(
            begin_step=begin // 12,
            begin_position=begin,
            batch_size=12,
            micro_batches=micro,
            processes=processes,
            rank=rank,
        )
        taken = [
            p
            for step in range(positions.begin_step, positions.begin_step + 3)
            for m in range(micro)
            for p in positions.micro_batch(step, m)
        ]
        first = begin // processes
        assert [positions.in_share(p) for p in taken] == list(range(first, first + len(taken)))


def test_a_missing_folder_is_named_before_networks_are_loaded(base, tmp_path):
    for task_class, config in tasks(base, tmp_path / "nowhere", tmp_path / "run").values():
        with pytest.raises(UserError, match="nowhere"):
            opened(task_class, config)
