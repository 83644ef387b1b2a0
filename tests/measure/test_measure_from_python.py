"""Measuring without the command line: what is drawn, what is said of a model that lacks parts."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from PIL import Image

from latentdiff.errors import UserError
from latentdiff.evaluation import protocol
from latentdiff.evaluation.classes import ClassScores, PhotoClassifier
from latentdiff.measure.drawing import Drawing, reconstruct
from latentdiff.measure.measure_classes import ClassesReport, JudgedPictures, class_items
from latentdiff.measure.measured_model import MeasuredModel, both_draw
from latentdiff.measure.picture_sets import scenes_for
from latentdiff.pipelines import Request, TextToImagePipeline


@pytest.fixture(scope="module")
def pipe() -> TextToImagePipeline:
    return TextToImagePipeline(tiny.tiny())


def test_items_are_drawn_in_order_each_from_its_own_seed(pipe: TextToImagePipeline) -> None:
    items = protocol.items(4, extras=False)
    done: list[tuple[int, int]] = []
    how = Drawing(
        request=Request(prompt="", num_inference_steps=2, scheduler="ddim"),
        batch_size=2,
        progress=lambda *counts: done.append(counts),
    )
    drawn = list(how.items(pipe, items))
    assert done == [(n, 4) for n in (1, 2, 3, 4)]
    for item, picture in zip(items, drawn, strict=True):
        alone = pipe(item.prompt, seed=item.seed, num_inference_steps=2, scheduler="ddim")
        difference = picture.astype(int) - np.asarray(alone.images[0]).astype(int)
        assert abs(difference).max() <= 1
    assert how.resolved(pipe).guidance_scale == pipe.default_guidance_scale


def test_reconstructions_have_the_shape_of_what_they_reconstruct(pipe: TextToImagePipeline) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    restored = reconstruct(pipe, pictures, batch_size=2)
    assert [(p.shape, p.dtype) for p in restored] == [((32, 32, 3), np.uint8)] * 3


def test_a_model_in_memory_says_that_it_brings_no_judge(pipe: TextToImagePipeline) -> None:
    model = MeasuredModel(pipeline=pipe, name="tiny")
    assert model.folder is None
    with pytest.raises(UserError, match="--judge"):
        model.load_judge()
    with pytest.raises(UserError, match="--no-clip"):
        model.load_clip()


def test_a_model_s_card_says_which_subjects_are_asked_of_it() -> None:
    def model(**card: object) -> MeasuredModel:
        drawing = TextToImagePipeline(tiny.with_card(tiny.tiny(), **card))
        return MeasuredModel(pipeline=drawing, name="tiny")

    both = model(subjects=["cat", "red car"])
    assert both.subjects == ("cat", "red-car") and model().subjects == ()
    assert {s for i in scenes_for(both, 8).items for s in i.subjects} == {"cat", "red-car"}
    assert both_draw(both, model(subjects=["red car", "owl"])) == ("red-car",)
    assert both_draw(model(), both) == both.subjects
    with pytest.raises(UserError, match="no subject in common"):
        both_draw(both, model(subjects=["owl"]))


def test_one_set_of_pictures_is_compared_with_nothing() -> None:
    names = ("cat", "dog")
    scores = ClassScores(
        classes=names,
        wanted=np.array([0, 1]),
        said=np.array([0, 0]),
        probability=np.array([0.9, 0.1], np.float32),
    )
    wanted = tuple(item.subjects[0] for item in class_items(names, 2))
    blank = tiny_pictures(2)
    one = JudgedPictures(name="tiny", pictures=blank, wanted=wanted, scores=scores)
    report = ClassesReport(classifier=PhotoClassifier(names), judged=[one])
    assert report.comparison is None
    assert report.sentence() is None
    assert report.to_json()["models"][0]["overall"]["successes"] == 1
    assert "all" in report.table()
    assert report.sheet(2).width > 128


def tiny_pictures(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8)) for _ in range(count)]
