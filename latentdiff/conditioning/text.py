"""Prompts to tokens to context: the only place where text is tokenized."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentdiff.errors import nearest

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")


@dataclass(frozen=True)
class TokenBatch:
    """input_ids (B, L) int64, padded and cut to the tokenizer's length; dropped: for each prompt
    the words that were lost to that limit, in order, whole even if cut in the middle."""

    input_ids: Tensor
    dropped: tuple[tuple[str, ...], ...]


def tokenize(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> TokenBatch:
    """Token ids of prompts, each begun, ended and padded to `tokenizer.model_max_length`."""
    texts = list(prompts)
    limit = int(tokenizer.model_max_length)
    cut = tokenizer(
        texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
    )
    # A row that ends in padding (the end mark twice) was not cut: only full ones are looked at.
    full = cut["input_ids"][:, -2] != tokenizer.eos_token_id
    return TokenBatch(
        cut["input_ids"],
        tuple(
            _dropped(tokenizer, t, limit) if at_limit else ()
            for t, at_limit in zip(texts, full.tolist(), strict=True)
        ),
    )


def count_tokens(tokenizer: CLIPTokenizer, prompt: str) -> int:
    """Tokens of a prompt, begin and end marks included, before any cut."""
    return len(tokenizer(prompt, truncation=False, verbose=False)["input_ids"])


def _dropped(tokenizer: CLIPTokenizer, text: str, limit: int) -> tuple[str, ...]:
    from tokenizers import Tokenizer

    # A cut once asked for stays with the backend, so a copy without it does the counting.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    encoding = backend.encode(text)
    if len(encoding.ids) <= limit:
        return ()
    start = encoding.offsets[limit - 1][0]
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    return tuple(text[start:].split())


@torch.no_grad()
def encode(text_encoder: CLIPTextModel, input_ids: Tensor) -> Tensor:
    """Context (B, L, D): the text encoder's last hidden states after its final layer norm.

    No attention mask, as in Stable Diffusion: padding takes part. Frozen, so without gradients.
    """
    return text_encoder(input_ids.to(text_encoder.device)).last_hidden_state


def encode_prompts(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompts: Sequence[str]
) -> Tensor:
    """Context (B, L, D) of prompts in one text-encoder call, each distinct prompt encoded once."""
    distinct = list(dict.fromkeys(prompts))
    context = encode(text_encoder, tokenize(tokenizer, distinct).input_ids)
    rows = torch.tensor([distinct.index(prompt) for prompt in prompts], device=context.device)
    return context[rows]


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
