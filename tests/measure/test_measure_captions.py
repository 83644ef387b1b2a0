"""What captions add: zero where the network is deaf, known where it is not."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from latentdiff.errors import UserError
from latentdiff.evaluation import protocol
from latentdiff.measure.measure_captions import TRUE, captions, measure_captions
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.picture_sets import scenes_for
from latentdiff.pipelines import TextToImagePipeline


@pytest.fixture
def model() -> MeasuredModel:
    """One of its own: its weights are changed here, and the tiny model is everybody's."""
    mine = tiny.tiny()
    mine = dataclasses.replace(mine, unet=copy.deepcopy(mine.unet))
    return MeasuredModel(pipeline=TextToImagePipeline(mine), name="tiny")


def test_scenes_of_one_subject_are_said_to_be_five_things() -> None:
    items = protocol.items(8, extras=False)
    kinds = captions(items)
    assert list(kinds) == [TRUE, "none", "another's", "other subject", "other setting"]
    for k, item in enumerate(items):
        assert kinds[TRUE][k] == item.prompt
        assert kinds["none"][k] == ""
        for kind in list(kinds)[2:]:
            assert kinds[kind][k] != item.prompt
    assert "other subject" not in captions(protocol.items(8))


def test_captions_that_are_all_the_same_are_an_error() -> None:
    (item, *_) = protocol.items(4, extras=False)
    with pytest.raises(UserError, match="all captions are the same"):
        captions([item, item])


def test_a_network_whose_context_is_cut_off_answers_all_captions_alike(
    model: MeasuredModel,
) -> None:
    for name, part in model.pipeline.bundle.unet.named_modules():
        if name.endswith("attn2"):
            nn.init.zeros_(part.to_out[0].weight)
        if name.endswith("add_embedding"):
            nn.init.zeros_(part.norm2.weight)
    scenes = scenes_for(model, 4)
    report = measure_captions(model, scenes, scenes.items, (900, 100))
    for kind in list(report.errors)[1:]:
        np.testing.assert_allclose(report.errors[kind], report.errors[TRUE], rtol=1e-5)
    assert report.worse("none", 0).mean == pytest.approx(0.0, abs=1e-6)


def test_the_error_is_that_of_v(model: MeasuredModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that answers zeros: its error is the mean square of what it should have said."""
    unet = model.pipeline.bundle.unet
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    assert model.pipeline.bundle.scheduler_config.prediction_type == "epsilon"
    scenes = scenes_for(model, 4)
    t = 600
    report = measure_captions(model, scenes, scenes.items, (t,))
    alpha_bar = float(model.pipeline.bundle.scheduler_config.noise_schedule().alpha_bar[t])
    # eps is taken for zero, so v is off by eps / sqrt(alpha_bar), whose mean square is about that.
    assert report.errors[TRUE].mean() == pytest.approx(1 / alpha_bar, rel=0.2)


def test_timesteps_out_of_range_are_named(model: MeasuredModel) -> None:
    scenes = scenes_for(model, 4)
    with pytest.raises(UserError, match="expected some of 0 … 999"):
        measure_captions(model, scenes, scenes.items, (1000,))


def test_the_table_has_a_row_for_each_timestep(model: MeasuredModel) -> None:
    scenes = scenes_for(model, 4)
    said: list[tuple[int, int]] = []
    report = measure_captions(
        model, scenes, scenes.items, (999, 10), lambda *counts: said.append(counts)
    )
    answers = len(scenes) * len(report.errors)
    assert said[-1] == (answers, answers) and len(said) == len(report.errors)
    lines = report.table().splitlines()
    assert lines[0].split()[0] == "t"
    assert [line.split()[0] for line in lines[2:4]] == ["999", "10"]
    assert torch.tensor(report.to_json()["errors"][TRUE]).shape == (4, 2)
