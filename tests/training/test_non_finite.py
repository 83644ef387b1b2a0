"""A non-finite step: what the run leaves, what it blames, and how it is replayed."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from regressor import Regressor, RegressorTask
from run_task import opened, run_task
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.cli import main as cli
from latentdiff.errors import UserError
from latentdiff.training.optimizers.guarded_step import NonFiniteError
from latentdiff.training.run import non_finite
from latentdiff.training.run.replay import HEADER, Event, replay, sample_losses
from latentdiff.training.tasks import clip_task as clip
from latentdiff.training.tasks import text_to_image
from latentdiff.training.tasks import vae_task as vae
from latentdiff.training.train_config import TrainConfig

BASE = TrainConfig(
    steps=8,
    batch_size=6,
    gradient_accumulation=2,
    learning_rate=1e-2,
    warmup_steps=0,
    lr_schedule="constant",
    validate_at_start=False,
    validate_every=0,
    sheet_every=0,
    device="cpu",
    tensorboard=False,
)


def stopped(task: RegressorTask, run_dir, **changes) -> tuple[str, non_finite.Kept]:
    config = dataclasses.replace(BASE, run_dir=run_dir, **changes)
    with pytest.raises(NonFiniteError) as caught:
        run_task(task, config)
    return str(caught.value), non_finite.read(run_dir)


def test_a_poisoned_batch_is_kept_with_its_positions_and_the_weights_it_met(tmp_path):
    clean = RegressorTask()
    run_task(clean, dataclasses.replace(BASE, run_dir=tmp_path / "clean", steps=3))
    task = RegressorTask(poisoned=frozenset({3 * 6 + 1}))  # in the first micro-batch of two
    message, kept = stopped(task, tmp_path / "bad")
    place = tmp_path / "bad" / "non_finite" / "step-00000003"
    assert message.endswith(f"All of it is kept: latentdiff debug {place}")
    assert "\n" not in message
    report = kept.report
    assert (report["step"], report["micro_batch"], report["positions"]) == (3, 0, [18, 19, 20])
    for name, tensor in RegressorTask(poisoned=task.poisoned).batch([18, 19, 20]).items():
        assert torch.equal(kept.batch[name].nan_to_num(7), tensor.nan_to_num(7)), name
    for name, value in clean.module.named_parameters():
        if value.requires_grad:
            assert torch.equal(value, kept.weights[name]), name
    assert report["passes"][0]["explanation"].startswith("the batch itself: 1 values of its tensor")
    assert files.verify_manifest(place) == []
    assert checkpoints.stored(tmp_path / "bad" / "checkpoints") == []


class Faulty(Regressor):
    """Finite in, not finite out, in one named place, once the input's first value passes 2."""

    def __init__(self, where: str) -> None:
        super().__init__(plain=True)
        self.where = where
        self.faulty = Fault(where)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = torch.relu(self.first(batch["x"]))
        if self.where == "checkpointed":  # runs the module forward a second time, backward
            # With something after the module, or the second run would end inside it.
            hidden = checkpoint(lambda h: self.faulty(h).sigmoid(), hidden, use_reentrant=False)
        else:
            hidden = self.faulty(hidden)
        error = (self.fixed(self.last(hidden)) * self.gain - batch["y"]).square().mean()
        return {"loss": error, "error": error.detach()}


class Fault(nn.Module):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "backward":
            return x + torch.sqrt(x - x.detach())  # 0 forward, an infinite slope
        return x / torch.zeros_like(x)


@pytest.mark.parametrize("where", ["forward", "checkpointed"])
def test_the_first_module_with_a_non_finite_output_is_named(where):
    task = RegressorTask(plain=True)
    task.module = Faulty(where)
    seen = replay(task.module, task.batch(range(4)))
    assert (seen.first.phase, seen.first.module, seen.first.kind) == ("forward", "faulty", "Fault")
    assert "the output of faulty (Fault) is the first that is not finite" in seen.explain()
    rows = [(event.phase, event.module) for event in seen.events]
    assert rows.count(("forward", "faulty")) == 1
    assert all(p.grad is None for p in task.module.parameters())


def test_a_gradient_alone_is_traced_to_where_it_came_from():
    task = RegressorTask(plain=True)
    task.module = Faulty("backward")
    seen = replay(task.module, task.batch(range(4)))
    assert math.isfinite(seen.loss)
    assert (seen.first.phase, seen.first.module) == ("backward", "first")
    assert "the gradient that reaches the output of first (Conv2d)" in seen.explain()
    weights = [event.module for event in seen.events if event.phase == "weights" and event.bad]
    assert weights == ["first.weight", "first.bias"]


def test_a_finite_pass_says_so_and_is_the_pass_that_the_run_made():
    task = RegressorTask()
    batch = task.batch(range(4))
    torch.manual_seed(3)
    loss = task.module(batch)["loss"]
    loss.backward()
    norm = float(task.module.last.weight.grad.abs().max())
    torch.manual_seed(3)
    seen = replay(task.module, batch, loss_scale=4.0)
    assert seen.first is None and seen.loss == float(loss.detach())
    row = next(e for e in seen.events if (e.phase, e.module) == ("weights", "last.weight"))
    assert row.largest == pytest.approx(4 * norm)


def test_each_sample_is_judged_alone():
    task = RegressorTask(poisoned=frozenset({2}), plain=True)
    losses = sample_losses(task.module, task.batch(range(4)))
    assert [math.isfinite(loss) for loss in losses] == [True, True, False, True]


def test_a_compiled_module_is_replayed_uncompiled():
    task = RegressorTask(plain=True)
    task.module.compile(backend="eager")
    seen = replay(task.module, task.batch(range(2)))
    assert "first" in [event.module for event in seen.events]
    assert task.module._compiled_call_impl is not None


def test_overflow_of_the_training_precision_alone_is_told_apart_from_a_fault(tmp_path):
    class Huge(RegressorTask):
        """A value beyond what bfloat16 … float32 share: finite in float32, squared it is not."""

        def batch(self, positions):
            made = super().batch(positions)
            return {**made, "x": made["x"] * (1e19 if positions[0] >= 12 else 1.0)}

    _, kept = stopped(Huge(plain=True), tmp_path, mixed_precision="bf16")
    assert [seen["precision"] for seen in kept.report["passes"]] == ["bfloat16", "float32"]


def test_what_cannot_be_kept_does_not_hide_why_the_run_stopped(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(non_finite, "save_file", full)
    config = dataclasses.replace(BASE, run_dir=tmp_path)
    with pytest.raises(NonFiniteError, match=r"loss nan; .*What it saw could not be kept: "):
        run_task(RegressorTask(poisoned=frozenset({13})), config)
    assert list((tmp_path / "non_finite").iterdir()) == []


def test_a_folder_that_is_none_or_is_damaged_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no folder of a non-finite step: no report\.json"):
        non_finite.read(tmp_path)
    _, kept = stopped(RegressorTask(poisoned=frozenset({2})), tmp_path / "run")
    with pytest.raises(UserError, match="names regressor:RegressorTask, which is none of"):
        non_finite.rebuild(kept)
    with (kept.folder / non_finite.WEIGHTS).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"damaged: weights\.safetensors has 100 bytes"):
        non_finite.read(tmp_path / "run")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The text-to-image task on tiny scenes."""
    root = tmp_path_factory.mktemp("parts")
    for name, task in (
        ("vae", opened(vae.VaeTask, vae.PRESETS["tiny"])),
        ("clip", opened(clip.ClipTask, clip.PRESETS["tiny"])),
    ):
        (root / name).mkdir()
        task.export(task.module, root / name)
    return dataclasses.replace(
        text_to_image.PRESETS["tiny"], vae=root / "vae", clip=root / "clip", validation_pictures=2
    )


def test_debug_names_the_module_of_a_unet_that_is_not_finite(tiny, tmp_path, capsys):
    run = tmp_path / "run"
    config = dataclasses.replace(
        tiny,
        train=dataclasses.replace(tiny.train, run_dir=run, device="cpu", validate_at_start=False),
    )
    task = opened(text_to_image.TextToImageTask, config)
    module = "unet.mid_block.resnets.0.conv1"
    with torch.no_grad():
        task.module.get_submodule(module).weight.fill_(3e38)
    with pytest.raises(NonFiniteError, match="latentdiff debug"):
        run_task(task, config.train, settings=config)
    capsys.readouterr()
    assert cli.run(["debug", str(run)]) == 0
    text = capsys.readouterr().out
    assert f"the output of {module} (LoRACompatibleConv)" in text or f"{module} (Conv2d)" in text
    assert "now, in float32:" in text and "alone, 4 of 4 samples are not finite" in text
    assert ", t " in text and "more rows with --all" in text
    assert cli.run(["debug", str(run / "non_finite" / "step-00000000"), "--all"]) == 0
    every = capsys.readouterr().out
    assert "more rows" not in every and len(every.splitlines()) > 100
    report = json.loads((run / "non_finite/step-00000000/report.json").read_text())
    assert report["passes"][0]["first"]["module"] == module


def test_debug_names_the_sample_whose_latents_are_not_finite(tiny, tmp_path, capsys):
    class Bad(text_to_image.TextToImageTask):
        def batch(self, positions):
            made = super().batch(positions)
            for k, position in enumerate(positions):
                if position == 6:
                    made["eps"][k, 0, 0, 0] = math.inf
            return made

    Bad.__module__ = text_to_image.TextToImageTask.__module__
    Bad.__qualname__ = "TextToImageTask"
    run = tmp_path / "run"
    train = dataclasses.replace(tiny.train, run_dir=run, device="cpu", validate_at_start=False)
    config = dataclasses.replace(tiny, train=train)
    with pytest.raises(NonFiniteError, match="step 1, batch positions 4…7"):
        run_task(opened(Bad, config), config.train, settings=config)
    capsys.readouterr()
    assert cli.run(["debug", str(run)]) == 0
    text = capsys.readouterr().out
    assert "the batch itself: 1 values of its tensor eps are not finite" in text
    assert "alone, 1 of 4 samples are not finite:\nposition 6, scene 6, t " in text
    assert "the data are at fault" in text


def test_a_long_module_name_leaves_the_columns_in_line():
    name = "unet.down_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.default"
    event = Event(phase="forward", module=name, kind="Linear", shape=(4, 8), largest=1.0, bad=0)
    line = event.line()
    assert line.index("4×8") == HEADER.index("shape")
    assert "unet.down_blocks.2.a…" in line and "to_q.lora_B.default (Linear) " in line
