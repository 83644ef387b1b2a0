"""Texts with weights, as the encoder meets them: tokens, chunks, ledger, normalisation."""

from __future__ import annotations

import pytest
import tiny
import torch

from latentdiff.conditioning import text, weighted_text
from latentdiff.conditioning.prompt_language import parse
from latentdiff.conditioning.prompt_weights import Span, WeightedText
from latentdiff.conditioning.settings import Syntax

TOKENIZER, ENCODER = tiny.tiny().tokenizer, tiny.tiny().text_encoder
LONG = "a cat in the snow and " * 6


def read(prompt: str, syntax: Syntax = "a1111") -> WeightedText:
    (one,) = parse(prompt, syntax).at(0, 1)
    return one


def plain(prompt: str) -> WeightedText:
    return WeightedText((Span(prompt),))


def test_ordinary_texts_are_encoded_as_before_bit_by_bit() -> None:
    prompts = ["a cat in the snow", "", "an owl at night"]
    encoded = weighted_text.encode(TOKENIZER, ENCODER, [plain(p) for p in prompts])
    ids = text.tokenize(TOKENIZER, prompts).input_ids
    assert encoded.mask is None
    assert torch.equal(encoded.context, text.encode(ENCODER, ids))


@pytest.mark.parametrize("long", ["truncate", "chunk"])
def test_a_weighted_neighbour_changes_no_token_of_an_ordinary_text(long: text.Long) -> None:
    prompts = ["a cat in the snow", LONG, "", "zebrawood"]
    alone = text.tokenize(TOKENIZER, prompts, long=long)
    texts = [*map(plain, prompts), read("a (cat:1.2)")]
    beside, weights = weighted_text.tokenize(TOKENIZER, texts, long=long)
    assert torch.equal(beside.input_ids[:4], alone.input_ids)
    assert beside.dropped[:4] == alone.dropped
    assert beside.chunks[:4] == alone.chunks
    assert weights is not None
    assert weights.shape == beside.input_ids.shape
    assert bool((weights[:4] == 1).all())


def test_every_token_of_a_span_has_its_weight_and_marks_and_padding_have_1() -> None:
    tokens, weights = weighted_text.tokenize(TOKENIZER, [read("a (zebrawood cat:1.5) in")])
    assert weights is not None
    count = len(text.uncut(TOKENIZER, ["zebrawood cat"])[0].ids)
    expected = [1.0, 1.0, *[1.5] * count, *[1.0] * (24 - 2 - count)]
    assert weights[0].tolist() == expected
    ids = text.tokenize(TOKENIZER, ["a zebrawood cat in"]).input_ids
    assert torch.equal(tokens.input_ids, ids)


def test_a_weighted_text_over_the_limit_loses_the_words_that_the_ordinary_one_loses() -> None:
    weighted, _ = weighted_text.tokenize(TOKENIZER, [read(f"({LONG}:1.2)")])
    assert weighted.dropped == text.tokenize(TOKENIZER, [LONG]).dropped
    tokens = weighted_text.ledger(TOKENIZER, read(f"({LONG}:1.2)"))
    assert [token.chunk for token in tokens] == [0] * 22 + [None] * 14
    assert "".join(token.text for token in tokens).split() == "".join(LONG.split()).split()


def test_break_begins_a_chunk_of_its_own() -> None:
    tokens, _ = weighted_text.tokenize(TOKENIZER, [read("a cat BREAK the snow")], long="chunk")
    expected = text.tokenize(TOKENIZER, ["a cat", "the snow"]).input_ids
    assert torch.equal(tokens.input_ids[0], expected)
    ledger = weighted_text.ledger(TOKENIZER, read("a cat BREAK the snow"), long="chunk")
    assert [(t.chunk, t.place, t.text) for t in ledger] == [
        (0, 1, "a"),
        (0, 2, "cat"),
        (1, 1, "the"),
        (1, 2, "snow"),
    ]


def test_the_words_of_a_text_are_its_ledger_s_ends() -> None:
    tokens = weighted_text.ledger(TOKENIZER, read("a zebrawood cat"))
    assert sum(token.ends_word for token in tokens) == 3
    assert tokens[-2].ends_word and not tokens[1].ends_word


# Normalisation


def context(mean: float, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 6, 8, generator=torch.Generator().manual_seed(1)) + mean


def test_a1111_multiplies_and_brings_back_each_text_s_mean() -> None:
    z, weights = context(3.0, 2), torch.tensor([[1, 1.5, 1, 1, 1, 1], [1, 1, 0.5, 0.5, 1, 1]])
    changed = weighted_text.weigh(z, weights, "a1111")
    torch.testing.assert_close(changed.mean(dim=(1, 2)), z.mean(dim=(1, 2)))
    ratio = changed / z
    torch.testing.assert_close(ratio[0, 1] / ratio[0, 0], torch.full((8,), 1.5))
    alone = weighted_text.weigh(z[:1], weights[:1], "a1111")
    torch.testing.assert_close(alone, changed[:1])


def test_a_mean_next_to_nothing_is_not_brought_back() -> None:
    z = context(0.0)
    z -= z.mean() - 1e-4
    weights = torch.tensor([[1, 1.5, 1, 1, 1, 1]])
    torch.testing.assert_close(weighted_text.weigh(z, weights, "a1111"), z * weights[..., None])


def test_comfyui_moves_from_the_empty_text() -> None:
    z, empty = context(0.0), context(1.0)[0]
    weights = torch.tensor([[1, 1.5, 0, 1, 1, 1]])
    changed = weighted_text.weigh(z, weights, "comfyui", empty)
    assert torch.equal(changed[0, 0], z[0, 0])
    torch.testing.assert_close(changed[0, 1], empty[1] + 1.5 * (z[0, 1] - empty[1]))
    torch.testing.assert_close(changed[0, 2], empty[2])


@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
def test_a_text_whose_weights_are_1_is_left_as_it_is_beside_a_weighted_one(syntax: Syntax) -> None:
    texts = [read("a cat", syntax), read("a (dog:1.4)", syntax)]
    both = weighted_text.encode(TOKENIZER, ENCODER, texts, syntax=syntax)
    ordinary = weighted_text.encode(TOKENIZER, ENCODER, [plain("a cat"), plain("a dog")])
    assert torch.equal(both.context[0], ordinary.context[0])
    assert not torch.equal(both.context[1], ordinary.context[1])
    assert both.rows([texts[1], texts[0], texts[1]]).tolist() == [1, 0, 1]


def test_repeated_texts_are_encoded_once_and_found_in_their_places() -> None:
    calls: list[int] = []
    hook = ENCODER.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    try:
        texts = [plain(""), plain("a cat"), plain(""), plain("a cat")]
        encoded = weighted_text.encode(TOKENIZER, ENCODER, texts)
    finally:
        hook.remove()
    assert calls == [2]
    assert encoded.rows(texts).tolist() == [0, 1, 0, 1]
    assert float((encoded.context[0] - encoded.context[1]).abs().max()) > 0.1


def test_chunks_are_weighed_each_for_itself() -> None:
    prompt = read("a (cat:1.4) BREAK the snow")
    encoded = weighted_text.encode(TOKENIZER, ENCODER, [prompt], long="chunk")
    apart = weighted_text.encode(TOKENIZER, ENCODER, [read("a (cat:1.4)"), plain("the snow")])
    torch.testing.assert_close(encoded.context[0], apart.context.flatten(0, 1))
