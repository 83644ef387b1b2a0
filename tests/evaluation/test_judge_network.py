"""The judge's file, its verdicts, and its size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentdiff.errors import UserError
from latentdiff.evaluation import judge_network as judging
from latentdiff.scenes.catalog import SETTINGS, SUBJECTS

SUBJECT_NAMES = ("cat", "dog", "owl")
SETTING_NAMES = ("snow", "beach")


@pytest.fixture(scope="module")
def judge() -> judging.Judge:
    torch.manual_seed(0)
    return judging.Judge(SUBJECT_NAMES, SETTING_NAMES, widths=(8, 8, 16)).eval()


def pictures(n: int) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return list(draw.integers(0, 256, (n, 128, 128, 3), dtype=np.uint8))


def test_the_full_judge_is_small() -> None:
    judge = judging.Judge(tuple(SUBJECTS), tuple(SETTINGS))
    assert sum(p.numel() for p in judge.parameters()) <= 700_000


def test_a_saved_judge_gives_the_same_verdicts(judge: judging.Judge, tmp_path: Path) -> None:
    judging.save(judge, tmp_path)
    loaded = judging.load(tmp_path)
    assert (loaded.subjects, loaded.settings) == (SUBJECT_NAMES, SETTING_NAMES)
    a, b = (judging.judge_pictures(j, pictures(3)) for j in (judge, loaded))
    # Weights are kept in float16: 11 bits, so verdicts agree to about 1e-2 at most.
    assert np.allclose(a.subject, b.subject, atol=1e-2)
    assert np.allclose(a.setting, b.setting, atol=1e-2)


def test_verdicts_do_not_depend_on_the_batch(judge: judging.Judge) -> None:
    together = judging.judge_pictures(judge, pictures(5), batch_size=5)
    alone = judging.judge_pictures(judge, iter(pictures(5)), batch_size=1)
    assert np.allclose(together.subject, alone.subject, atol=1e-5)
    assert together.subject.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_pictures_of_other_sizes_are_judged_resized(judge: judging.Judge) -> None:
    big = Image.fromarray(pictures(1)[0]).resize((256, 256), Image.Resampling.NEAREST)
    verdicts = judging.judge_pictures(judge, [big])
    assert verdicts.subject.shape == (1, 3)


def test_no_pictures_give_no_verdicts(judge: judging.Judge) -> None:
    assert len(judging.judge_pictures(judge, [])) == 0


def test_top_answers_are_named_best_first() -> None:
    verdicts = judging.Verdicts(
        subjects=SUBJECT_NAMES,
        settings=SETTING_NAMES,
        subject=np.asarray([[0.2, 0.5, 0.3]], np.float32),
        setting=np.asarray([[0.1, 0.9]], np.float32),
        across=np.asarray([[0.5, 0.7, 0.3]], np.float32),
    )
    assert verdicts.is_left_of(0, "owl", "dog")
    assert not verdicts.is_left_of(0, "dog", "owl")
    assert verdicts.top_subjects(0) == ("dog",)
    assert verdicts.top_subjects(0, 2) == ("dog", "owl")
    assert verdicts.top_setting(0) == "beach"


def test_evidence_on_one_side_is_said_to_stand_there() -> None:
    """A head that answers to one feature, and a map in which that feature is on the right."""
    judge = judging.Judge(SUBJECT_NAMES, SETTING_NAMES, (8, 8, 8)).eval()
    torch.nn.init.zeros_(judge.subject_head.weight)
    torch.nn.init.zeros_(judge.subject_head.bias)
    judge.subject_head.weight.data[1, 0] = 20.0
    judge.features = torch.nn.Conv2d(3, 8, 1, bias=False)
    torch.nn.init.zeros_(judge.features.weight)
    judge.features.weight.data[0, 0] = 1.0
    pixels = torch.zeros(1, 3, 8, 8)
    pixels[:, 0, :, 6] = 1.0
    across = judge(pixels).across
    assert float(across[0, 1]) == pytest.approx(6.5 / 8, abs=1e-3)
    assert float(across[0, 0]) == pytest.approx(0.5)


def test_a_missing_judge_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no judge in .*config\.json is missing.*--judge"):
        judging.load(tmp_path)


def test_weights_of_another_shape_are_refused(judge: judging.Judge, tmp_path: Path) -> None:
    judging.save(judge, tmp_path)
    config = json.loads((tmp_path / judging.CONFIG).read_text())
    config["subjects"].append("fox")
    (tmp_path / judging.CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="subject_head"):
        judging.load(tmp_path)


def test_an_unreadable_config_is_refused(judge: judging.Judge, tmp_path: Path) -> None:
    judging.save(judge, tmp_path)
    (tmp_path / judging.CONFIG).write_text('{"subjects": 3}')
    with pytest.raises(UserError, match="does not describe a judge"):
        judging.load(tmp_path)
