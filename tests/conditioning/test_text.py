"""Prompts to tokens to context, and the words that get lost or were never known."""

import pytest
import tiny
import torch

from latentdiff.conditioning import text

TOKENIZER = tiny.tiny().tokenizer
ENCODER = tiny.tiny().text_encoder
SHORT, LONG = "a cat in the snow", "a cat in the snow and " * 6


def test_a_short_prompt_loses_nothing() -> None:
    batch = text.tokenize(TOKENIZER, [SHORT, ""])
    assert batch.dropped == ((), ())
    assert batch.input_ids.shape == (2, 24)
    assert batch.input_ids.dtype == torch.int64


def test_dropped_words_are_those_beyond_the_limit_in_order() -> None:
    words = LONG.split()
    (dropped,) = text.tokenize(TOKENIZER, [LONG]).dropped
    assert list(dropped) == words[22:]  # 24 tokens, two of them the marks


def test_a_prompt_that_just_fits_loses_nothing_and_one_word_more_loses_it() -> None:
    fits = " ".join(["cat"] * 22)
    assert text.count_tokens(TOKENIZER, fits) == 24
    assert text.tokenize(TOKENIZER, [fits, f"{fits} snow"]).dropped == ((), ("snow",))


def test_a_word_cut_in_its_middle_is_named_whole() -> None:
    prompt = " ".join(["cat"] * 21) + " zebrawood snow"
    assert text.tokenize(TOKENIZER, [prompt]).dropped == (("zebrawood", "snow"),)


def test_counting_and_looking_for_lost_words_do_not_change_what_is_cut() -> None:
    before = text.tokenize(TOKENIZER, [LONG]).input_ids
    assert text.count_tokens(TOKENIZER, LONG) == 6 * 6 + 2
    text.dropped_words(TOKENIZER, [LONG])
    assert torch.equal(text.tokenize(TOKENIZER, [LONG]).input_ids, before)
    assert text.count_tokens(TOKENIZER, SHORT) == 7


def test_only_prompts_that_lose_words_are_listed() -> None:
    assert list(text.dropped_words(TOKENIZER, [SHORT, LONG, LONG])) == [LONG]


def test_context_is_the_last_hidden_state_without_a_mask() -> None:
    ids = text.tokenize(TOKENIZER, [SHORT]).input_ids
    context = text.encode(ENCODER, ids)
    assert context.shape == (1, 24, 32)
    assert not context.requires_grad
    assert torch.equal(context, ENCODER(ids).last_hidden_state)


def test_repeated_prompts_are_encoded_once_and_in_their_places() -> None:
    calls: list[int] = []

    def count(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        calls.append(inputs[0].shape[0])

    hook = ENCODER.register_forward_pre_hook(count)
    try:
        context = text.encode_prompts(TOKENIZER, ENCODER, ["", SHORT, "", SHORT])
    finally:
        hook.remove()
    assert calls == [2]
    assert torch.equal(context[0], context[2])
    assert torch.equal(context[1], context[3])
    alone = text.encode_prompts(TOKENIZER, ENCODER, [SHORT])[0]
    torch.testing.assert_close(context[1], alone, rtol=0, atol=1e-5)
    assert float((context[0] - context[1]).abs().max()) > 0.1


VOCABULARY = ("a", "cat", "in", "the", "snow", "red car", "hot-air balloon", "penguin")


@pytest.mark.parametrize(
    "prompt", ["a cat in the snow", "A CAT, in the SNOW!", "red car", "a hot-air balloon", "3 cat"]
)
def test_known_words_are_known_in_any_case_and_with_marks(prompt: str) -> None:
    assert text.unknown_words(prompt, VOCABULARY) == {}


def test_unknown_words_come_once_each_with_the_nearest_known_ones() -> None:
    unknown = text.unknown_words("a pengiun and a Pengiun in xyzzyq", VOCABULARY)
    assert list(unknown) == ["pengiun", "and", "xyzzyq"]
    assert unknown["pengiun"] == ["penguin"]
    assert unknown["xyzzyq"] == []
