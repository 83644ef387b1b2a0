"""The CLIP task: true pairs are positives, exports open as a Stable Diffusion text encoder."""

import dataclasses

import pytest
import torch
from run_task import opened

from latentdiff.conditioning import text
from latentdiff.models.tokenizer import build_tokenizer
from latentdiff.scenes.captions import vocabulary
from latentdiff.scenes.records import Placement, SceneRecord
from latentdiff.training.frozen import load_text_encoder
from latentdiff.training.tasks import clip_data
from latentdiff.training.tasks import clip_task as clip


@pytest.fixture(scope="module")
def task():
    return opened(clip.ClipTask, clip.PRESETS["tiny"])


def record(*subjects, setting="snow", relation=None):
    """The first subject stands on the left, unless the relation says otherwise."""
    order = range(len(subjects))[:: -1 if relation == "right of" else 1]
    placed = tuple(
        Placement(s, (9 * k, 0, 9 * k + 8, 8), False) for k, s in zip(order, subjects, strict=True)
    )
    return SceneRecord(0, 0, setting, placed, relation)


def test_a_batch_is_a_function_of_the_positions_alone(task):
    together = task.batch([2, 11])
    for k, position in enumerate((2, 11)):
        alone = task.batch([position])
        for name in together:
            assert torch.equal(together[name][k], alone[name][0])


def test_records_of_one_meaning_share_a_group():
    group = clip_data.group_of
    there = record("cat", "dog", relation="and")
    named_last = dataclasses.replace(there, placements=there.placements[::-1])
    assert group(there) == group(named_last)
    assert group(record("cat", "dog", relation="left of")) == group(
        record("dog", "cat", relation="right of")
    )
    others = [
        record("cat"),
        record("dog"),
        record("cat", setting="beach"),
        there,
        record("dog", "cat", relation="and"),
        record("cat", "dog", relation="left of"),
        record("dog", "cat", relation="left of"),
    ]
    assert len({group(r) for r in others}) == len(others)


class Fixed(torch.nn.Module):
    """A CLIP whose embeddings are given."""

    def __init__(self, image, words):
        super().__init__()
        self.image, self.words = image, words
        self.logit_scale = torch.nn.Parameter(torch.tensor(5.0))

    def forward(self, input_ids, pixel_values):
        return type("Out", (), {"image_embeds": self.image, "text_embeds": self.words})()


def test_several_true_captions_share_the_target():
    eye = torch.eye(4)
    batch = {
        "images": torch.zeros(3, 8, 8, 3, dtype=torch.uint8),
        "input_ids": torch.zeros(3, 4, dtype=torch.int64),
        "group": torch.tensor([7, 7, 9]),
    }
    twins = Fixed(eye[[0, 0, 1]], eye[[0, 0, 1]])
    out = clip.ClipModule(twins)(batch)
    assert float(out["accuracy"]) == 1.0
    # Each twin's target is half and half, so the least loss is the entropy ln 2 for two of three.
    assert float(out["loss"].detach()) == pytest.approx(
        2 / 3 * torch.tensor(2.0).log().item(), abs=1e-4
    )
    assert float(clip.ClipModule(Fixed(eye[[0, 0, 1]], eye[[1, 1, 0]]))(batch)["accuracy"]) == 0


def test_every_parameter_gets_a_gradient(task):
    task.module(task.batch(range(4)))["loss"].backward()
    assert [n for n, p in task.module.named_parameters() if p.grad is None] == []
    task.module.zero_grad()


def test_the_tokenizer_knows_every_word_of_the_world_as_one_token(task):
    ids = task.tokens(vocabulary())
    assert ((ids != task.tokenizer.eos_token_id).sum(dim=1) == 2).all()


def test_the_same_words_make_the_same_tokenizer(task):
    again = build_tokenizer(vocabulary()[::-1], task.tokenizer.model_max_length)
    assert again.get_vocab() == task.tokenizer.get_vocab()


def test_the_export_is_the_same_text_encoder(task, tmp_path):
    task.export(task.module, tmp_path)
    encoder, tokenizer = load_text_encoder(tmp_path)
    ids = text.tokenize(tokenizer, ["a cat in the snow", ""]).input_ids
    assert torch.equal(ids, task.tokens(["a cat in the snow", ""]))
    with torch.no_grad():
        expected = task.module.clip.text_model(input_ids=ids).last_hidden_state
    assert torch.equal(text.encode(encoder, ids), expected)
    other = opened(
        clip.ClipTask,
        dataclasses.replace(task.config, train=dataclasses.replace(task.config.train, seed=1)),
    )
    other.initialise(tmp_path)
    assert torch.equal(other.module.clip.logit_scale, task.module.clip.logit_scale)
    first = "text_model.embeddings.token_embedding.weight"
    state, wanted = other.module.clip.state_dict(), task.module.clip.state_dict()
    assert torch.equal(state[first], wanted[first])


def test_validation_counts_true_matches(task):
    numbers = task.validate(task.module, 0)
    assert 0 <= numbers["picture_to_text"] <= 1
    assert 0 <= numbers["text_to_picture"] <= 1
