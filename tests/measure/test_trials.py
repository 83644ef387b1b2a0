"""Small trainings side by side: equal noise for all, one unit for all losses, one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from latentdiff.diffusion.noise_schedule import make_schedule
from latentdiff.errors import UserError
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.results.store import ResultStore, Work
from latentdiff.measure.trials import trial_report, trial_training
from latentdiff.measure.trials.trial_data import TrialData, trial_data
from latentdiff.measure.trials.trial_recipe import TrialRecipe, recipes_of
from latentdiff.measure.vision_features import load as load_features
from latentdiff.pipelines import TextToImagePipeline
from latentdiff.pipelines.sweep import parse_axis

OWN = make_schedule("scaled_linear", 1000, 0.00085, 0.02)
SHORT = TrialRecipe(samples=16, batch_size=8, width=8)


@pytest.fixture(scope="module")
def model() -> MeasuredModel:
    return MeasuredModel(pipeline=TextToImagePipeline(tiny.tiny()), name="tiny")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return ResultStore(tmp_path_factory.mktemp("trials"))


@pytest.fixture(scope="module")
def data(model: MeasuredModel, store: ResultStore) -> TrialData:
    return trial_data(model, 96, store)


class Answers(nn.Module):
    """A network that takes x_0 to be x_t/2, in the words of a kind of prediction."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, told: Tensor, **_: Any) -> tuple[Tensor]:
        alpha_bar = OWN.alpha_bar[told.long()].reshape(-1, 1, 1, 1)
        x_0 = x.double() / 2
        eps = (x - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()
        v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0
        return ({"sample": x_0, "epsilon": eps, "v_prediction": v}[self.kind],)


def test_the_same_guess_has_the_same_error_whatever_it_is_worded_in(data: TrialData) -> None:
    found = [
        trial_training._by_level(Answers(kind), data, TrialRecipe(prediction=kind), OWN)
        for kind in ("sample", "epsilon", "v_prediction")
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-3)


def test_equal_recipes_learn_equally_and_the_seed_changes_that(
    model: MeasuredModel, data: TrialData
) -> None:
    one, same, other = (
        trial_training.run_trial(model, data, recipe, 8)
        for recipe in (SHORT, SHORT, TrialRecipe(samples=16, batch_size=8, width=8, seed=1))
    )
    np.testing.assert_array_equal(one["loss"], same["loss"])
    np.testing.assert_array_equal(one["pictures"], same["pictures"])
    assert not np.array_equal(one["loss"], other["loss"])
    assert one["pictures"].shape == (8, 64, 64, 3) and one["by_level"].shape == (10,)


def test_training_lowers_the_held_out_error(model: MeasuredModel, data: TrialData) -> None:
    few, many = (
        trial_training.run_trial(model, data, TrialRecipe(samples=n, batch_size=8, width=8), 8)
        for n in (8, 160)
    )
    assert many["by_level"].mean() < 0.95 * few["by_level"].mean()


@pytest.mark.parametrize("name", ["own", "linear", "scaled_linear", "cosine", "su", "sigmoid"])
def test_a_schedule_of_fewer_timesteps_ends_in_as_much_noise(name: str) -> None:
    ends = [
        float(TrialRecipe(schedule=name, timesteps=T).noise_schedule(OWN).alpha_bar[-1])
        for T in (100, 200, 1000)
    ]
    whole = TrialRecipe(schedule=name).noise_schedule(OWN)
    assert len(whole.beta) == 1000 and max(ends) < 0.05
    assert np.ptp(np.log(np.maximum(ends, 1e-6))) < 2.5


def test_an_axis_sets_fields_and_whole_settings() -> None:
    axis = parse_axis("with=weighting=min_snr+gamma=3|timesteps=100")
    first, second = recipes_of(TrialRecipe(), axis)
    assert (first.weighting, first.gamma, second.timesteps) == ("min_snr", 3.0, 100)
    assert [r.batch_size for r in recipes_of(SHORT, parse_axis("batch_size=4,8"))] == [4, 8]
    for axis, said in (
        ("predictions=epsilon", "prediction"),
        ("prediction=eps", "eps"),
        ("optimizer=sgd", "sgd"),
        ("timesteps=1", "timesteps"),
    ):
        with pytest.raises(UserError, match=said):
            recipes_of(TrialRecipe(), parse_axis(axis))


def test_trials_are_kept_and_their_table_says_what_was_swept(
    model: MeasuredModel, data: TrialData, store: ResultStore, tmp_path: Path
) -> None:
    axis = parse_axis("prediction=epsilon,v_prediction")
    named = list(zip(axis.values, recipes_of(SHORT, axis), strict=True))
    features, seen = load_features(), []
    work = Work(store=store, progress=lambda *counts: seen.append(counts))
    for _ in range(2):
        found = trial_report.run_trials(model, data, named, 16, features, None, work)
    assert seen[-1] == (4, 4) and len(seen) == 4  # the second time nothing was trained
    made = trial_report.trials_report(model, axis.name, found, data)
    assert [row[0] for row in made.tables[0].rows] == ["epsilon", "v_prediction"]
    assert "16 samples each" in made.lead
    numbers = json.loads(json.dumps(made.numbers))
    assert numbers["trials"][0]["recipe"]["prediction"] == "epsilon"


def test_brightness_is_the_luma_of_the_whole_picture() -> None:
    from latentdiff.measure.trials.trial_data import brightness

    white, green = np.full((1, 4, 4, 3), 255, np.uint8), np.zeros((1, 4, 4, 3), np.uint8)
    green[..., 1] = 100
    assert brightness(white)[0] == pytest.approx(255) and brightness(green)[0] == pytest.approx(
        58.7
    )


def test_a_network_that_answers_nan_is_a_trial_that_diverged(data: TrialData) -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor, told: Tensor, **_: Any) -> tuple[Tensor]:
            return (torch.full_like(x, torch.nan),)

    latents, _ = trial_training._draw(Nothing(), data, SHORT, OWN, 8)
    assert not torch.isfinite(latents).any()
