"""Prompts to tokens to context, and the words that get lost or were never known."""

from collections.abc import Callable

import pytest
import tiny
import torch

from latentdiff.conditioning import text
from latentdiff.models.bundle import Bundle
from latentdiff.models.denoiser import predict

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


WORDS = ("a cat in the snow and a fox at night " * 8).split()
THREE_CHUNKS = " ".join(WORDS[:50])  # 22 tokens fit beside the two marks, a token a word


def test_chunks_are_the_pieces_of_a_prompt_each_with_its_own_marks() -> None:
    batch = text.tokenize(TOKENIZER, [THREE_CHUNKS, SHORT], long="chunk")
    assert batch.input_ids.shape == (2, 3, 24)
    assert (batch.chunks, batch.dropped) == ((3, 1), ((), ()))
    pieces = [" ".join(WORDS[a:b]) for a, b in ((0, 22), (22, 44), (44, 50))]
    assert torch.equal(batch.input_ids[0], text.tokenize(TOKENIZER, pieces).input_ids)
    alone = text.tokenize(TOKENIZER, [SHORT, "", ""]).input_ids
    assert torch.equal(batch.input_ids[1], alone)


@pytest.mark.parametrize("bundle", [tiny.tiny, tiny.stable_diffusion_1, tiny.stable_diffusion_2])
def test_a_prompt_that_fits_is_the_same_in_one_chunk(bundle: Callable[[], Bundle]) -> None:
    tokenizer, encoder = bundle().tokenizer, bundle().text_encoder
    whole = text.tokenize(tokenizer, [SHORT, ""])
    chunk = text.tokenize(tokenizer, [SHORT, ""], long="chunk")
    assert torch.equal(chunk.input_ids, whole.input_ids[:, None])
    assert torch.equal(text.encode(encoder, chunk.input_ids), text.encode(encoder, whole.input_ids))
    assert text.context_mask(whole) is None
    assert text.context_mask(chunk) is None


def test_chunks_are_encoded_apart_and_stand_side_by_side() -> None:
    batch = text.tokenize(TOKENIZER, [THREE_CHUNKS, SHORT], long="chunk")
    context = text.encode(ENCODER, batch.input_ids)
    assert context.shape == (2, 72, 32)
    for row in range(2):
        for k in range(3):
            alone = text.encode(ENCODER, batch.input_ids[row, k][None])[0]
            piece = context[row, 24 * k : 24 * (k + 1)]
            torch.testing.assert_close(piece, alone, rtol=0, atol=1e-5)


def test_no_word_is_cut_by_a_chunk_unless_it_fills_one() -> None:
    prompt = " ".join(["cat"] * 20) + " zebrawood snow"
    tokens = text.count_tokens(TOKENIZER, "zebrawood") - 2
    assert 2 < tokens < 22
    ids = text.tokenize(TOKENIZER, [prompt], long="chunk").input_ids[0]
    pieces = [" ".join(["cat"] * 20), "zebrawood snow"]
    assert torch.equal(ids, text.tokenize(TOKENIZER, pieces).input_ids)
    endless = "q" * 50  # one word of more tokens than a chunk holds
    batch = text.tokenize(TOKENIZER, [endless], long="chunk")
    marks = {TOKENIZER.bos_token_id, TOKENIZER.eos_token_id}
    found = [int(i) for i in batch.input_ids.flatten() if int(i) not in marks]
    assert found == TOKENIZER(endless, add_special_tokens=False)["input_ids"]
    assert batch.chunks == (-(-len(found) // 22),)


def test_a_number_of_chunks_can_be_fixed_and_what_is_beyond_is_named() -> None:
    batch = text.tokenize(TOKENIZER, [THREE_CHUNKS, SHORT], long="chunk", chunks=2)
    assert batch.input_ids.shape == (2, 2, 24)
    assert batch.dropped == (tuple(WORDS[44:50]), ())
    assert batch.chunks == (2, 1)
    more = text.tokenize(TOKENIZER, [THREE_CHUNKS], long="chunk", chunks=4)
    assert torch.equal(more.input_ids[0, 3], text.tokenize(TOKENIZER, [""]).input_ids[0])
    assert (more.chunks, more.dropped) == ((3,), ((),))


def test_under_the_mask_a_prompt_means_the_same_beside_a_longer_one() -> None:
    batch = text.tokenize(TOKENIZER, [THREE_CHUNKS, SHORT], long="chunk")
    mask = text.context_mask(batch)
    assert mask is not None
    assert mask.sum(dim=1).tolist() == [72, 24]
    assert bool(mask[1, :24].all())
    unet = tiny.tiny().unet
    context = text.encode(ENCODER, batch.input_ids)
    x_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500, 500])
    with torch.no_grad():
        masked = predict(unet, x_t, t, context, mask)
        plain = unet(x_t, t, context).sample
        alone = unet(x_t[1:], t[1:], context[1:, :24]).sample
    torch.testing.assert_close(masked[1:], alone, rtol=0, atol=1e-4)
    torch.testing.assert_close(masked[0], plain[0], rtol=0, atol=1e-4)
    assert float((plain[1:] - alone).abs().max()) > 1e-2


def test_no_prompt_at_all_is_an_empty_batch_of_chunks() -> None:
    assert text.tokenize(TOKENIZER, [], long="chunk").input_ids.shape == (0, 1, 24)


def test_many_are_counted_as_one_is() -> None:
    prompts = [SHORT, LONG, "", "zebrawood"]
    assert text.token_counts(TOKENIZER, prompts) == [
        text.count_tokens(TOKENIZER, prompt) for prompt in prompts
    ]
    assert text.token_counts(TOKENIZER, []) == []


def test_gradients_reach_a_text_encoder_that_learns_only_when_asked() -> None:
    ids = text.tokenize(TOKENIZER, [SHORT]).input_ids
    weight = ENCODER.get_input_embeddings().weight
    weight.requires_grad_(True)
    try:
        assert not text.encode(ENCODER, ids).requires_grad
        assert text.encode(ENCODER, ids, gradients=True).requires_grad
        with torch.no_grad():
            assert not text.encode(ENCODER, ids, gradients=True).requires_grad
    finally:
        weight.requires_grad_(False)
