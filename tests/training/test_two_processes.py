"""Two CPU processes (gloo): the data, noise, steps and weights of one; and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from regressor import RegressorTask
from run_task import opened, run_task
from safetensors.torch import load_file
from together import together
from torch import Tensor
from torch.distributed.tensor import DTensor

from latentdiff.checkpoints import store as checkpoints
from latentdiff.data.rendered.scene_pictures import row_of
from latentdiff.errors import UserError
from latentdiff.training import sharding
from latentdiff.training.optimizers.guarded_step import NonFiniteError
from latentdiff.training.run import non_finite, processes
from latentdiff.training.run.processes import Processes
from latentdiff.training.train_config import TrainConfig

BASE = TrainConfig(
    steps=10,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=3,
    ema_decay=0.9,
    log_every=1,
    validate_every=0,
    sheet_every=0,
    device="cpu",
    tensorboard=False,
)


def settings(run_dir: Path, **changes: Any) -> TrainConfig:
    return dataclasses.replace(BASE, run_dir=run_dir, **changes)


def stored(run_dir: Path, step: int = 10) -> dict[str, Tensor]:
    folder = run_dir / "checkpoints" / checkpoints.folder_name(step)
    return {
        f"{part}: {name}": tensor
        for part in (checkpoints.WEIGHTS, checkpoints.EMA, checkpoints.OPTIMIZER)
        for name, tensor in load_file(folder / part).items()
    }


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor], relative: float = 1e-4) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        worst = float((value - b[name]).abs().max() / value.abs().max().clamp(min=1e-12))
        assert worst <= relative, (name, worst)


class Rows(RegressorTask):
    """A data set of 7 rows, dealt by the project's own order; notes what each process was given."""

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        made = super().batch([row_of(position, 7, 0) for position in positions])
        self.seen[-1] = tuple(positions)
        return {**made, "positions": torch.tensor(list(positions))}


def logged(run_dir: Path, name: str = "learning_rate") -> list[float]:
    """The learning rate, or another number, of every step."""
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line["event"] == "train"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_make_the_weights_of_one_from_the_same_samples(tmp_path, accumulation):
    def train(_: int) -> None:
        task = Rows(plain=True)
        config = settings(tmp_path / "two", gradient_accumulation=accumulation)
        result = run_task(task, config)
        print(json.dumps([result.step, list(itertools.chain(*task.seen))]))

    said = together(train, tmp_path / "log")
    assert "2 processes, backend gloo, device cpu" in said[0]
    one = Rows(plain=True)
    run_task(one, settings(tmp_path / "one"))
    assert_close(stored(tmp_path / "one"), stored(tmp_path / "two"))
    # 7 rows do not divide by 2 processes or 8 samples: still both make as many steps, and every
    # sample of one process is seen by one of the two, once.
    (steps, first), (same, second) = (json.loads(text.splitlines()[-1]) for text in said)
    assert steps == same == 10 and len(first) == len(second) == 40
    assert sorted(first + second) == sorted(itertools.chain(*one.seen)) == list(range(80))
    assert logged(tmp_path / "one") == logged(tmp_path / "two")
    assert len(logged(tmp_path / "one")) == 10 and len(set(logged(tmp_path / "one"))) > 3
    for name in ("loss", "grad_norm"):
        values = logged(tmp_path / "one", name)
        assert logged(tmp_path / "two", name) == pytest.approx(values, rel=1e-4)


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "constant"])
def test_the_learning_rate_is_the_same_under_accumulation(tmp_path, schedule):
    used = []
    for accumulation in (1, 4):
        config = settings(tmp_path / str(accumulation), gradient_accumulation=accumulation)
        run_task(RegressorTask(), dataclasses.replace(config, lr_schedule=schedule))
        used.append(logged(tmp_path / str(accumulation)))
    assert used[0] == used[1]
    assert used[0][:3] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    assert (used[0][-1] < 5e-3) == (schedule != "constant")


def test_the_signal_of_one_process_stops_both_at_the_same_step(tmp_path):
    class Stopping(RegressorTask):
        def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
            if positions[0] == 4 * 8:  # only the main process is given it
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(positions)

    def train(_: int) -> None:
        result = run_task(Stopping(plain=True), settings(tmp_path / "two"))
        assert (result.stopped, result.step) == ("interrupted", 5)

    def go_on(_: int) -> None:
        result = run_task(RegressorTask(plain=True), settings(tmp_path / "two", resume=True))
        assert (result.stopped, result.step) == ("finished", 10)

    together(train, tmp_path / "log")
    together(go_on, tmp_path / "log")
    run_task(RegressorTask(plain=True), settings(tmp_path / "one"))
    assert_close(stored(tmp_path / "one"), stored(tmp_path / "two"))


def test_processes_wait_for_one_another_as_long_as_they_are_told(tmp_path):
    def begin(_: int) -> None:
        processes.start(dataclasses.replace(BASE, timeout_minutes=7))
        group = torch.distributed.distributed_c10d._get_default_group()
        print(group._get_backend(torch.device("cpu")).options._timeout)

    assert together(begin, tmp_path) == ["0:07:00\n"] * 2


def test_processes_whose_weights_have_come_apart_save_nothing(tmp_path):
    class Apart(RegressorTask):
        def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
            if positions[0] == 9 * 8 + 4:  # the other process, in the last step
                with torch.no_grad():
                    self.module.last.weight[0, 0, 0, 0] += 1e-3
            return super().batch(positions)

    def train(_: int) -> None:
        with pytest.raises(AssertionError, match=r"no longer have the same weights: 1 .*last\.wei"):
            run_task(Apart(plain=True), settings(tmp_path / "two", lr_schedule="constant"))

    together(train, tmp_path / "log")
    assert checkpoints.stored(tmp_path / "two" / "checkpoints") == []


def test_what_is_not_finite_in_one_process_stops_both_and_is_kept(tmp_path):
    bad = 3 * 8 + 6  # in the second process's part of step 3

    def train(_: int) -> None:
        with pytest.raises(NonFiniteError, match="step 3, batch positions 24…31: loss nan"):
            run_task(RegressorTask(poisoned=frozenset({bad})), settings(tmp_path / "two"))

    together(train, tmp_path / "log")
    kept = non_finite.read(tmp_path / "two")
    assert (kept.report["rank"], kept.report["positions"]) == (1, [28, 29, 30, 31])
    assert kept.report["passes"][0]["first"]["module"] == "poison"


def fsdp(classes: Sequence[str] = ("Conv2d",)) -> None:
    """In this process, FSDP as its config asks for it; on a CPU accelerate has none to give."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True
    )
    plugin.transformer_cls_names_to_wrap = list(classes)
    Processes.sharded = property(lambda self: True)
    AcceleratorState.fsdp_plugin = plugin


def vectors(**keywords: Any) -> RegressorTask:
    """The regressor without its scalar, which FSDP2 does not take."""
    task = RegressorTask(plain=True, **keywords)
    task.module.gain = torch.nn.Parameter(torch.ones(1))
    return task


@pytest.mark.parametrize("accumulation", [1, 2])
def test_fsdp_makes_saves_and_resumes_the_weights_of_one_process(tmp_path, accumulation):
    changes = {"gradient_accumulation": accumulation, "grad_clip": 0.05}

    def train(rank: int) -> None:
        fsdp()
        task = vectors()
        run_task(task, settings(tmp_path / "two", steps=6, decay_fraction=0.0, **changes))
        assert isinstance(task.module.last.weight, DTensor)
        assert task.module.last.weight.to_local().shape == (1, 4, 3, 3)  # of (2, 4, 3, 3)

    def go_on(_: int) -> None:
        fsdp()
        run_task(vectors(), settings(tmp_path / "two", resume=True, decay_fraction=0.0, **changes))

    said = together(train, tmp_path / "log")
    assert "backend gloo, FSDP2" in said[0]
    run_task(vectors(), settings(tmp_path / "one", steps=6, decay_fraction=0.0, **changes))
    assert_close(stored(tmp_path / "one", 6), stored(tmp_path / "two", 6))
    together(go_on, tmp_path / "log")
    run_task(vectors(), settings(tmp_path / "one", resume=True, decay_fraction=0.0, **changes))
    assert_close(stored(tmp_path / "one"), stored(tmp_path / "two"))
    export = load_file(tmp_path / "two" / "export" / "model.safetensors")
    assert export["last.weight"].shape == (2, 4, 3, 3)


def test_fsdp_stops_and_keeps_what_is_not_finite(tmp_path):
    def train(_: int) -> None:
        fsdp()
        with pytest.raises(NonFiniteError, match="step 3, batch positions 24…31: loss nan"):
            run_task(vectors(poisoned=frozenset({25})), settings(tmp_path / "two"))

    together(train, tmp_path / "log")
    kept = non_finite.read(tmp_path / "two")
    assert (kept.report["rank"], kept.weights["last.weight"].shape) == (0, (2, 4, 3, 3))
    assert kept.report["passes"][0]["first"]["module"] == "poison"


def test_fsdp_says_what_it_cannot_shard():
    with pytest.raises(UserError, match="gain is one; train this with DDP"):
        sharding.shard(RegressorTask().module, None, None)
    with pytest.raises(UserError, match="names Attention, which the module does not hold"):
        sharding.check_names(RegressorTask().module, ["Conv2d", "Attention"])


def test_fsdp_on_a_cpu_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP on a CPU, where accelerate silently makes it plain"):
        processes.start(BASE)


def test_fsdp_that_did_not_come_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    came = SimpleNamespace(distributed_type=DistributedType.MULTI_GPU)
    with pytest.raises(UserError, match=r"asks for FSDP .*, but what came is MULTI_GPU"):
        processes.check_type(came, BASE)


@pytest.mark.parametrize(
    ("plugin", "changes", "message"),
    [
        ({"fsdp_version": 1}, {}, "set fsdp_version: 2"),
        ({"cpu_offload": True}, {}, "with FSDP2: fsdp_offload_params"),
        ({"activation_checkpointing": True}, {}, "with FSDP2: fsdp_activation_checkpointing"),
        ({}, {"compile": "default", "channels_last": True}, "with FSDP2: compile, channels_last"),
        ({}, {"optimizer": "adamw8bit"}, "with FSDP2: optimizer adamw8bit"),
    ],
)
def test_what_fsdp_does_not_do_here_is_refused_by_name(plugin, changes, message):
    made = FullyShardedDataParallelPlugin(**{"fsdp_version": 2, **plugin})
    state = SimpleNamespace(fsdp_plugin=made)
    came = SimpleNamespace(distributed_type=DistributedType.FSDP, state=state)
    with pytest.raises(UserError, match=message):
        processes.check_type(came, dataclasses.replace(BASE, **changes))
    processes.check_type(
        SimpleNamespace(
            distributed_type=DistributedType.FSDP,
            state=SimpleNamespace(fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)),
        ),
        BASE,
    )


def test_a_world_that_is_not_the_launchers_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = SimpleNamespace(num_processes=1)
    monkeypatch.setattr(processes, "Accelerator", lambda **_: alone)
    with pytest.raises(UserError, match=r"started 2 processes .* in a group of 1"):
        processes.start(BASE)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The text-to-image task on tiny scenes."""
    from latentdiff.training.tasks import clip_task as clip
    from latentdiff.training.tasks import text_to_image
    from latentdiff.training.tasks import vae_task as vae

    root = tmp_path_factory.mktemp("parts")
    for name, task in (
        ("vae", opened(vae.VaeTask, vae.PRESETS["tiny"])),
        ("clip", opened(clip.ClipTask, clip.PRESETS["tiny"])),
    ):
        (root / name).mkdir()
        task.export(task.module, root / name)

    def train(run_dir: Path) -> torch.nn.Module:
        loop_settings = settings(run_dir, batch_size=4, learning_rate=1e-3)
        config = dataclasses.replace(
            text_to_image.PRESETS["tiny"],
            vae=root / "vae",
            clip=root / "clip",
            validation_pictures=2,
            train=loop_settings,
        )
        made = opened(text_to_image.TextToImageTask, config)
        run_task(made, loop_settings, settings=config)
        return made.module

    return train


@pytest.mark.slow
@pytest.mark.parametrize("how", ["DDP", "FSDP2"])
def test_a_unet_learns_the_same_in_two_processes(tiny, tmp_path, how):
    def train(_: int) -> None:
        if how == "FSDP2":
            fsdp(["BasicTransformerBlock", "ResnetBlock2D"])
        module = tiny(tmp_path / "two")
        if how == "FSDP2":
            mine = sum(p.to_local().numel() for p in module.parameters())
            whole = sum(p.numel() for p in module.parameters())
            assert mine == pytest.approx(whole / 2, rel=0.01)

    together(train, tmp_path / "log")
    tiny(tmp_path / "one")
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        if not name.startswith(checkpoints.OPTIMIZER):
            assert float((value - two[name]).norm() / value.norm().clamp(min=1e-12)) < 1e-4, name
