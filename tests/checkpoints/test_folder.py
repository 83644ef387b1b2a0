"""Checkpoint folders: whole or not at all, newest first, rotated last."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from latentdiff import files
from latentdiff.checkpoints import store as checkpoints
from latentdiff.checkpoints.state import TrainState
from latentdiff.checkpoints.store import Checkpoint
from latentdiff.errors import UserError


def checkpoint(step: int, *, keep: bool = False) -> Checkpoint:
    state = TrainState(task="t", step=step, positions=step * 4, minutes=1.5, keep=keep)
    strided = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    return Checkpoint(
        state=state,
        weights={"w": strided, "scale": torch.tensor(2.0)},
        ema={"w": strided + 1},
        optimizer={"exp_avg.w": strided * 2, "step.w": torch.tensor(float(step))},
    )


def test_what_is_loaded_is_what_was_saved(tmp_path):
    path = checkpoints.save(tmp_path, checkpoint(3))
    back, made = checkpoints.load(path), checkpoint(3)
    assert path.name == "step-00000003" and back.state == made.state
    for part in ("weights", "ema", "optimizer"):
        saved, loaded = getattr(made, part), getattr(back, part)
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)


def test_rotation_keeps_the_newest_and_the_marked(tmp_path):
    for step in range(1, 6):
        checkpoints.save(tmp_path, checkpoint(step, keep=step == 2))
    removed = checkpoints.rotate(tmp_path, 2)
    assert [step for step, _ in checkpoints.stored(tmp_path)] == [2, 4, 5]
    assert [path.name for path in removed] == ["step-00000001", "step-00000003"]
    assert sorted(p.name for p in tmp_path.iterdir())[0].startswith("step-")


@pytest.mark.parametrize("damage", ["cut", "gone", "no manifest", "no state"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, damage):
    whole = checkpoints.save(tmp_path, checkpoint(1))
    broken = checkpoints.save(tmp_path, checkpoint(2))
    if damage == "cut":
        data = (broken / checkpoints.OPTIMIZER).read_bytes()
        (broken / checkpoints.OPTIMIZER).write_bytes(data[:-3])
    else:
        name = {
            "gone": checkpoints.EMA,
            "no manifest": "manifest.json",
            "no state": checkpoints.STATE,
        }[damage]
        (broken / name).unlink()
    found = checkpoints.newest_whole(tmp_path)
    assert found.path == whole
    assert len(found.skipped) == 1 and found.skipped[0].startswith("step-00000002: ")
    with pytest.raises(UserError):
        checkpoints.load(broken)


def test_only_safetensors_and_json_are_written(tmp_path):
    path = checkpoints.save(tmp_path, checkpoint(1))
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}


def test_a_state_of_another_schema_or_with_other_keys_is_refused(tmp_path):
    value = checkpoint(1).state.to_json()
    assert TrainState.from_json(json.loads(json.dumps(value))) == checkpoint(1).state
    with pytest.raises(UserError, match="schema"):
        TrainState.from_json({**value, "schema": 99})
    with pytest.raises(UserError, match="unknown keys: extra"):
        TrainState.from_json({**value, "extra": 1})
    fields = {f.name for f in dataclasses.fields(TrainState)}
    assert set(value) == fields | {"schema"}


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a training checkpoint"):
        checkpoints.read_state(tmp_path)


def test_what_was_passed_over_does_not_push_whole_checkpoints_out(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, checkpoint(step))
    (tmp_path / "step-00000003" / checkpoints.EMA).write_bytes(b"")
    found = checkpoints.newest_whole(tmp_path)
    moved = checkpoints.set_aside_newer(tmp_path, found.path)
    assert [path.name for path in moved] == ["damaged-step-00000003"] and moved[0].is_dir()
    # A run that goes on from step 2 and writes more often meets the number again.
    checkpoints.save(tmp_path, checkpoint(3))
    checkpoints.rotate(tmp_path, 1)
    assert checkpoints.newest_whole(tmp_path).path == tmp_path / "step-00000003"
    (tmp_path / "step-00000003" / checkpoints.EMA).write_bytes(b"")
    checkpoints.save(tmp_path, checkpoint(2))
    moved = checkpoints.set_aside_newer(tmp_path, tmp_path / "step-00000002")
    assert [path.name for path in moved] == ["damaged-step-00000003-2"]


def test_a_manifest_that_lists_nothing_makes_no_checkpoint(tmp_path):
    path = checkpoints.save(tmp_path, checkpoint(1))
    (path / "manifest.json").unlink()
    files.write_json(path / "manifest.json", {"files": {}})
    assert checkpoints.newest_whole(tmp_path).path is None
    with pytest.raises(UserError, match=r"does not list weights\.safetensors"):
        checkpoints.load(path)


def test_the_averaged_weights_alone_are_checked_too(tmp_path):
    path = checkpoints.save(tmp_path, checkpoint(1))
    assert torch.equal(checkpoints.load_ema(path)["w"], checkpoint(1).ema["w"])
    (path / checkpoints.WEIGHTS).write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.load_ema(path)
