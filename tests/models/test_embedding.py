"""Learned words: found in prompts, and standing there with the vectors that were learned."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from latentdiff.conditioning.text import tokenize
from latentdiff.errors import UserError
from latentdiff.models.bundle import Bundle
from latentdiff.models.embedding import (
    add_embedding,
    learned_words,
    parse_embedding,
    read_embedding,
)
from latentdiff.pipelines.walk import notes


@pytest.fixture
def bundle() -> Bundle:
    whole = tiny.stable_diffusion_1()
    return dataclasses.replace(whole, text_encoder=copy.deepcopy(whole.text_encoder))


@pytest.mark.parametrize(("name", "word"), [("emb_params", "my-cat"), ("<zorb>", "<zorb>")])
@pytest.mark.parametrize("count", [1, 3])
def test_a_word_takes_its_vectors_in_the_prompt_and_changes_no_other(
    name: str, word: str, count: int, bundle: Bundle, tmp_path: Path
) -> None:
    vectors = torch.randn(count, 32)
    save_file({name: vectors}, tmp_path / "my-cat.safetensors")
    before = bundle.text_encoder.get_input_embeddings().weight.clone()
    embedding = read_embedding(tmp_path / "my-cat.safetensors")
    assert embedding.token == word
    taught = add_embedding(bundle, embedding)
    table = taught.text_encoder.get_input_embeddings().weight
    ids = tokenize(taught.tokenizer, [f"a {word}, at night"]).input_ids[0].tolist()
    plain = tokenize(bundle.tokenizer, ["a , at night"]).input_ids[0].tolist()
    place = 2
    assert torch.equal(table[torch.tensor(ids[place : place + count])], vectors)
    assert (ids[:place] + ids[place + count :])[:10] == plain[:10]
    assert torch.equal(table[: len(before)], before)
    for other in ("a cat in the snow", f"x{word}x"[:3], f"{word}s"):
        assert (
            tokenize(taught.tokenizer, [other]).input_ids.tolist()
            == tokenize(bundle.tokenizer, [other]).input_ids.tolist()
        )
    (told,) = taught.embeddings
    assert (told["token"], told["sha256"]) == (word, embedding.sha256)
    context = taught.text_encoder(torch.tensor([ids])).last_hidden_state
    assert bool(torch.isfinite(context).all())


def test_two_words_stand_side_by_side(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"emb_params": torch.randn(2, 32)}, tmp_path / f"{name}.safetensors")
        bundle = add_embedding(bundle, read_embedding(tmp_path / f"{name}.safetensors"))
    ids = tokenize(bundle.tokenizer, ["one two"]).input_ids[0].tolist()
    assert len(set(ids[1:5])) == 4
    assert min(ids[1:5]) >= len(bundle.tokenizer) - 4


def test_a_file_given_twice_counts_once_and_two_files_cannot_share_a_word(
    bundle: Bundle, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        save_file({"<cat>": torch.randn(2, 32)}, tmp_path / f"{name}.safetensors")
    one, two = (read_embedding(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    taught = add_embedding(bundle, one)
    assert add_embedding(taught, one) is taught
    assert learned_words(taught) == ["<cat>"]
    with pytest.raises(UserError, match=r"two files teach the word '<cat>', .* FILE:WORD"):
        add_embedding(taught, two)
    renamed = dataclasses.replace(two, token="<dog>")
    assert learned_words(add_embedding(taught, renamed)) == ["<cat>", "<dog>"]


def test_a_learned_word_is_none_that_the_captions_never_held(
    bundle: Bundle, tmp_path: Path
) -> None:
    save_file({"my-zorb": torch.randn(1, 32)}, tmp_path / "a.safetensors")
    bundle = dataclasses.replace(bundle, card={"vocabulary": ["a", "cat"]})
    assert len(notes.unknown_words(bundle, ["a my-zorb"])) == 2
    taught = add_embedding(bundle, read_embedding(tmp_path / "a.safetensors"))
    assert notes.unknown_words(taught, ["a my-zorb"]) == []


def test_a_word_that_stands_twice_has_all_its_vectors_twice(bundle: Bundle, tmp_path: Path) -> None:
    save_file({"<cat>": torch.randn(3, 32)}, tmp_path / "a.safetensors")
    taught = add_embedding(bundle, read_embedding(tmp_path / "a.safetensors"))
    ids = tokenize(taught.tokenizer, ["<cat>,a house, <cat>"]).input_ids[0].tolist()
    own = [number for number in ids if number >= len(taught.tokenizer) - 3]
    assert own == [*range(len(taught.tokenizer) - 3, len(taught.tokenizer))] * 2


def test_a_word_may_be_renamed() -> None:
    assert parse_embedding("a/cat.safetensors") == (Path("a/cat.safetensors"), None)
    assert parse_embedding("a/cat.safetensors:<zorb>") == (Path("a/cat.safetensors"), "<zorb>")


def test_what_is_no_embedding_is_said_in_a_line(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    cases = {
        "for Stable Diffusion XL": {"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)},
        "holds 2 tensors": {"a": torch.zeros(1, 32), "b": torch.zeros(1, 32)},
        "is no embedding": {"emb_params": torch.zeros(1, 2, 3)},
        "holds 76 vectors": {"emb_params": torch.zeros(76, 32)},
        "cannot be written in a prompt": {"two words": torch.zeros(1, 32)},
    }
    for words, tensors in cases.items():
        save_file(tensors, path)
        with pytest.raises(UserError, match=words):
            read_embedding(path)
    save_file({"emb_params": torch.zeros(1, 768)}, path)
    with pytest.raises(UserError, match=r"768 wide, this .* takes 32; .* Stable Diffusion 1.x"):
        add_embedding(bundle, read_embedding(path))
    (tmp_path / "a.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(UserError, match="is a pickle"):
        read_embedding(tmp_path / "a.pt")
    with pytest.raises(UserError, match="no embedding at"):
        read_embedding(tmp_path / "nothing.safetensors")
