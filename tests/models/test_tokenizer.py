"""The tokenizer: CLIP's format, one token a word, and the same from the same words."""

import json
from pathlib import Path

import pytest

from latentdiff.models.bundle import save_tokenizer
from latentdiff.models.tokenizer import END, START, build_tokenizer

CAPTIONS = ("a cat in the snow", "a red-brown fox, at night!", "two owls")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(CAPTIONS, 12)


def test_every_word_of_the_captions_is_one_token(tokenizer) -> None:
    for word in ("cat", "snow", "brown", "fox", "night", "owls", ",", "!"):
        assert len(tokenizer(word).input_ids) == 3, word


def test_text_is_begun_ended_and_padded_with_the_end_mark(tokenizer) -> None:
    ids = tokenizer("a cat", padding="max_length").input_ids
    assert len(ids) == tokenizer.model_max_length == 12
    assert ids[0] == tokenizer.convert_tokens_to_ids(START)
    assert set(ids[3:]) == {tokenizer.convert_tokens_to_ids(END)}


def test_case_and_white_space_do_not_matter(tokenizer) -> None:
    assert tokenizer("A  CAT\n in the Snow").input_ids == tokenizer("a cat in the snow").input_ids


@pytest.mark.parametrize("text", ["zebra crossing", "naïve café", "雪の中の猫", "🦊"])
def test_any_other_text_has_tokens_and_none_is_unknown(tokenizer, text: str) -> None:
    inner = tokenizer(text).input_ids[1:-1]
    assert inner
    assert tokenizer.eos_token_id not in inner


def test_order_and_repetition_of_captions_do_not_matter(tokenizer) -> None:
    again = build_tokenizer([*reversed(CAPTIONS), CAPTIONS[0]], 12)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again("a red owl").input_ids == tokenizer("a red owl").input_ids


def test_the_vocabulary_keeps_within_its_bound() -> None:
    small = build_tokenizer(CAPTIONS, 12, vocab_size=520)
    assert len(small) <= 520
    assert len(small("a cat in the snow").input_ids) >= 7


def test_both_saved_formats_hold_the_same_tokenizer(tokenizer, tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    save_tokenizer(tokenizer, tmp_path / "both")
    (tmp_path / "old").mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "old" / name).write_bytes((tmp_path / "both" / name).read_bytes())
    assert (tmp_path / "old/merges.txt").read_text().startswith("#version: 0.2\n")
    assert json.loads((tmp_path / "old/vocab.json").read_text()) == tokenizer.get_vocab()
    for folder in ("both", "old"):
        loaded = CLIPTokenizer.from_pretrained(tmp_path / folder, local_files_only=True)
        for text in (*CAPTIONS, "A CAT — zebra 雪"):
            assert loaded(text).input_ids == tokenizer(text).input_ids, (folder, text)
        assert loaded.model_max_length == 12
        assert loaded.pad_token == END
