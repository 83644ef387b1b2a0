"""The judge's task: targets, objective, batches, what it refuses."""

from pathlib import Path

import pytest
import torch
from run_task import opened

from latentdiff.data.rendered.pixel_pool import build_pool
from latentdiff.errors import UserError
from latentdiff.evaluation import judge_network as judging
from latentdiff.scenes.catalog import SETTINGS, SUBJECTS, held_out_subjects
from latentdiff.training.task import Task
from latentdiff.training.tasks.judge_task import (
    PRESETS,
    JudgeConfig,
    JudgeObjective,
    JudgeTask,
    judge_world,
    subjects_right,
)
from latentdiff.training.train_config import TrainConfig


@pytest.fixture(scope="module")
def task() -> JudgeTask:
    return opened(JudgeTask, JudgeConfig(validation_count=6, train=TrainConfig(batch_size=4)))


def test_it_is_a_task(task: JudgeTask) -> None:
    assert isinstance(task, Task)


def test_all_subjects_appear_held_out_ones_and_pairs_included() -> None:
    world = judge_world(202)
    seen = {subject for k in range(3000) for subject in world.record(k).subjects}
    assert seen == set(SUBJECTS)
    assert set(held_out_subjects()) < seen
    assert not world.hold_out_pairs


def test_two_subjects_are_right_in_any_order_and_only_both() -> None:
    logits = torch.tensor([[5.0, 4.0, 0.0]] * 4)
    asked = torch.tensor([[0, 1], [1, 0], [0, 2], [1, 2]])
    assert subjects_right(logits, asked).tolist() == [True, True, False, False]


def test_one_subject_is_right_only_as_first_choice() -> None:
    logits = torch.tensor([[5.0, 4.0, 0.0]] * 2)
    assert subjects_right(logits, torch.tensor([[0, 0], [1, 1]])).tolist() == [True, False]


def test_a_batch_is_a_function_of_positions_alone(task: JudgeTask) -> None:
    together, alone = task.batch([3, 4, 5]), task.batch([4])
    for name, value in alone.items():
        assert (together[name][1:2] == value).all(), name


def test_targets_name_the_pictured_subjects(task: JudgeTask) -> None:
    records = [judge_world(202).record(k) for k in range(40)]
    subjects, settings = task.targets(records)
    keys, places = tuple(SUBJECTS), tuple(SETTINGS)
    for record, pair, where in zip(records, subjects.tolist(), settings.tolist(), strict=True):
        assert {keys[i] for i in pair} == set(record.subjects)
        assert places[where] == record.setting


def test_the_loss_is_least_at_the_soft_target() -> None:
    # Half the mass on each of two subjects costs ln 2, and nothing else does better.
    torch.manual_seed(0)
    objective = JudgeObjective(judging.Judge(("a", "b", "c"), ("x", "y"), widths=(8, 8, 8)))
    with torch.no_grad():
        for head in (objective.judge.subject_head, objective.judge.setting_head):
            head.weight.zero_()
        objective.judge.subject_head.bias.copy_(torch.tensor([20.0, 20.0, 0.0]))
        objective.judge.setting_head.bias.copy_(torch.tensor([40.0, 0.0]))
    task = opened(JudgeTask, JudgeConfig(validation_count=1))
    batch = task.batch([0, 1])
    batch["subjects"] = torch.tensor([[0, 1], [1, 0]])
    batch["setting"] = torch.tensor([0, 0])
    found = objective(batch)
    assert found["loss"].item() == pytest.approx(0.6931, abs=1e-3)
    assert float(found["subject_accuracy"]) == 1.0 and float(found["setting_accuracy"]) == 1.0
    # Certain of the first alone: half of the target lies 20 nats away.
    with torch.no_grad():
        objective.judge.subject_head.bias.copy_(torch.tensor([20.0, 0.0, -20.0]))
    batch["subjects"] = torch.tensor([[0, 1], [0, 1]])
    assert objective(batch)["loss"].item() == pytest.approx(10.0, abs=1e-3)


def test_it_learns_a_handful_of_pictures_by_heart(task: JudgeTask) -> None:
    batch = task.batch(range(8))
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=3e-3)
    first = last = 0.0
    for _ in range(40):
        found = task.module(batch)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        last = float(found["loss"].detach())
        first = first or last
    assert last < first - 4


def test_exports_open_again_and_validate_alike(task: JudgeTask, tmp_path: Path) -> None:
    module = task.module.eval()
    task.export(module, tmp_path)
    other = opened(JudgeTask, task.config)
    other.initialise(tmp_path)
    with torch.no_grad():
        for name, value in other.module.state_dict().items():
            assert torch.allclose(value, module.state_dict()[name], atol=1e-3), name
    numbers = task.validate(module, 0)
    assert set(numbers) == {
        f"{prefix}{kind}_accuracy"
        for prefix in ("", "degraded_")
        for kind in ("subject", "pair", "setting", "relation")
    }
    assert all(0 <= value <= 1 for value in numbers.values())
    assert task.sheet(module, 0) is not None


def test_the_generators_own_pool_is_refused(tmp_path: Path) -> None:
    build_pool(tmp_path, world_seed=1, count=2, workers=1)
    with pytest.raises(UserError, match="the judge must know them all"):
        opened(JudgeTask, JudgeConfig(pool=tmp_path))


def test_a_pool_gives_the_pictures_that_the_world_gives(tmp_path: Path) -> None:
    build_pool(
        tmp_path,
        world_seed=202,
        count=4,
        workers=1,
        subjects=tuple(SUBJECTS),
        hold_out_pairs=False,
    )
    task = opened(JudgeTask, JudgeConfig(pool=tmp_path))
    batch = task.batch(range(4))
    world = judge_world(202)
    rendered = {world.scene(k).image.tobytes() for k in range(4)}
    assert {picture.numpy().tobytes() for picture in batch["pixels"]} == rendered


def test_rendering_without_a_pool_is_refused() -> None:
    with pytest.raises(UserError, match="render needs a pool"):
        JudgeConfig(render=10)


def test_fresh_scenes_are_not_training_scenes() -> None:
    with pytest.raises(UserError, match="would not be fresh"):
        JudgeConfig(world_seed=5, validation_seed=5)


def test_presets_build() -> None:
    assert set(PRESETS) == {"cpu", "h100", "tiny"}
