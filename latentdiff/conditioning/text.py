"""Prompts to tokens to context: the only place where text is tokenized."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentdiff.conditioning.settings import Long as Long
from latentdiff.errors import UserError, nearest

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of B prompts, padded to the tokenizer's length L.

    input_ids: (B, L) int64, cut at the limit; or (B, k, L), k chunks of at most L - 2 tokens, each
    with its own begin and end marks, those that a shorter prompt does not fill being empty.
    dropped: for each prompt the words that were lost, in order, whole even if cut in the middle.
    chunks: how many chunks each prompt fills, at least 1.
    """

    input_ids: Tensor
    dropped: tuple[tuple[str, ...], ...]
    chunks: tuple[int, ...]


def tokenize(
    tokenizer: CLIPTokenizer,
    prompts: Sequence[str],
    *,
    long: Long = "truncate",
    chunks: int | None = None,
) -> TokenBatch:
    """Token ids of prompts, each begun, ended and padded to `tokenizer.model_max_length`.

    long: what becomes of prompts over the limit. chunks: with "chunk", the k of the result; by
    default that of the longest prompt. Words beyond k chunks are lost.
    """
    texts = list(prompts)
    if long == "chunk":
        return _chunked(tokenizer, texts, chunks)
    assert long == "truncate" and chunks is None, f"unknown way with long prompts: {long!r}"
    limit = int(tokenizer.model_max_length)
    cut = torch.tensor([one.ids for one in _encodings(tokenizer, texts, limit=limit)])
    cut = cut.reshape(len(texts), limit)
    # A row that ends in padding (the end mark twice) was not cut: only full ones are looked at.
    full = cut[:, -2] != tokenizer.eos_token_id
    at_limit = [text for text, is_full in zip(texts, full.tolist(), strict=True) if is_full]
    lost = {
        text: words_from(text, encoded.starts[limit - 2])
        for text, encoded in zip(at_limit, uncut(tokenizer, at_limit), strict=True)
        if len(encoded.ids) > limit - 2
    }
    return TokenBatch(cut, tuple(lost.get(text, ()) for text in texts), (1,) * len(texts))


def _chunked(tokenizer: CLIPTokenizer, texts: list[str], chunks: int | None) -> TokenBatch:
    limit = int(tokenizer.model_max_length)
    encoded = uncut(tokenizer, texts)
    parts = [split(one.words, limit - 2) for one in encoded]
    filled = [len(several) for several in parts]
    count = max([1, *filled]) if chunks is None else chunks
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = torch.full((len(texts), count, limit), tokenizer.pad_token_id, dtype=torch.int64)
    ids[:, :, 0], ids[:, :, 1] = begin, end
    dropped = []
    for row, (text, one, several) in enumerate(zip(texts, encoded, parts, strict=True)):
        for k, part in enumerate(several[:count]):
            marked = [begin, *one.ids[part.start : part.stop], end]
            ids[row, k, : len(marked)] = torch.tensor(marked)
        lost = len(several) > count
        dropped.append(words_from(text, one.starts[several[count].start]) if lost else ())
    return TokenBatch(ids, tuple(dropped), tuple(min(k, count) for k in filled))


def split(words: Sequence[object], room: int) -> list[range]:
    """Pieces of at most `room` tokens that end where a word ends, if a word is not longer.

    words: for each token, the number of its word.
    """
    parts = []
    start = 0
    while start < len(words):
        stop = min(start + room, len(words))
        whole = stop
        while start < whole < len(words) and words[whole] == words[whole - 1]:
            whole -= 1
        parts.append(range(start, whole if whole > start else stop))
        start = parts[-1].stop
    return parts or [range(0)]


@dataclass(frozen=True)
class Uncut:
    """Tokens of a text without marks: their ids, where each begins and ends in the text, and the
    number of its word."""

    ids: list[int]
    starts: list[int]
    ends: list[int]
    words: list[int | None]


def uncut(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> list[Uncut]:
    """All tokens of each text, before any cut."""
    return [
        Uncut(one.ids, [a for a, _ in one.offsets], [b for _, b in one.offsets], one.word_ids)
        for one in _encodings(tokenizer, texts, marks=False)
    ]


def _encodings(
    tokenizer: CLIPTokenizer, texts: Sequence[str], *, limit: int | None = None, marks: bool = True
) -> list[Any]:
    """The texts as the `tokenizers` library encodes them, for transformers' tokenizers and light
    ones alike. limit: cut and padded to so many tokens. marks: begun and ended."""
    backend = tokenizer.backend_tokenizer
    if limit is None:
        backend.no_truncation()
        backend.no_padding()
    else:
        cut_and_pad(tokenizer, limit)
    return list(backend.encode_batch(list(texts), add_special_tokens=marks))


def cut_and_pad(tokenizer: CLIPTokenizer, limit: int) -> None:
    """Let the tokenizer's backend give `limit` tokens of every text."""
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(limit, direction=tokenizer.truncation_side)
    backend.enable_padding(
        length=limit,
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_token=tokenizer.pad_token,
    )


def words_from(text: str, start: int) -> tuple[str, ...]:
    """The words of a text from a place on; one that has begun before it is named whole."""
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    return tuple(text[start:].split())


def count_tokens(tokenizer: CLIPTokenizer, prompt: str) -> int:
    """Tokens of a prompt, begin and end marks included, before any cut."""
    return token_counts(tokenizer, [prompt])[0]


def token_counts(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> list[int]:
    """`count_tokens` of many prompts in one call."""
    return [len(one.ids) for one in _encodings(tokenizer, prompts)]


def encode(
    text_encoder: CLIPTextModel, input_ids: Tensor, *, gradients: bool = False, clip_skip: int = 0
) -> Tensor:
    """Context (B, L, D): the text encoder's last hidden states after its final layer norm.

    input_ids: (B, L); or (B, k, L), whose chunks are encoded apart and stand side by side in a
    context (B, k·L, D). No attention mask, as in Stable Diffusion: padding takes part.
    gradients: keep the graph, for a text encoder that is itself trained. clip_skip: leave out so
    many of the last layers, as diffusers counts them (A1111's "clip skip" is one more); the final
    layer norm stays. Raises UserError where no layer would be left.
    """
    layers = int(text_encoder.config.num_hidden_layers)
    if not 0 <= clip_skip < layers:
        raise UserError(
            f"clip_skip is {clip_skip}; this text encoder has {layers} layers: "
            f"expected 0 … {layers - 1}"
        )
    ids = input_ids.to(text_encoder.device)
    flat = ids.reshape(-1, ids.shape[-1])
    with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
        if clip_skip:
            hidden = text_encoder(flat, output_hidden_states=True).hidden_states
            tower = getattr(text_encoder, "text_model", text_encoder)
            context = tower.final_layer_norm(hidden[-1 - clip_skip])
        else:
            context = text_encoder(flat).last_hidden_state
    return context.reshape(ids.shape[0], -1, context.shape[-1])


def context_mask(tokens: TokenBatch) -> Tensor | None:
    """(B, k·L) bool, false where a prompt has an empty chunk only because another one is longer.

    It is what diffusers' U-Net takes as `encoder_attention_mask`: with it, a prompt means the same
    alone and beside a longer one. None when all prompts fill all chunks.
    """
    if tokens.input_ids.ndim == 2 or min(tokens.chunks) == tokens.input_ids.shape[1]:
        return None
    filled = torch.tensor(tokens.chunks)[:, None] > torch.arange(tokens.input_ids.shape[1])
    return filled.repeat_interleave(tokens.input_ids.shape[2], dim=1)


def dropped_words(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Prompt → the words lost to the tokenizer's limit, for prompts that lose any."""
    distinct = list(dict.fromkeys(prompts))
    lost = tokenize(tokenizer, distinct).dropped
    return {prompt: words for prompt, words in zip(distinct, lost, strict=True) if words}


def unknown_words(prompt: str, vocabulary: Iterable[str]) -> dict[str, list[str]]:
    """Words of a prompt that a vocabulary does not hold, each with the nearest known ones."""
    known = {word.lower() for entry in vocabulary for word in (entry, *WORD.findall(entry))}
    unknown = {}
    for word in dict.fromkeys(w.lower() for w in WORD.findall(prompt)):
        if word not in known and not all(part in known for part in re.split(r"[-'’]", word)):
            unknown[word] = nearest(word, known)
    return unknown
