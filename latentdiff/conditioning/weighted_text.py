"""Texts with weights to tokens to context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentdiff.conditioning import text
from latentdiff.conditioning.prompt_weights import Span, WeightedText
from latentdiff.conditioning.settings import Long, Syntax
from latentdiff.conditioning.text import TokenBatch, Uncut

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

LARGEST_RESTORING = 2.0
"""A1111's mean is restored by at most this factor; see `weigh`."""


@dataclass(frozen=True)
class Encoded:
    """Contexts (N, L, D) of distinct texts, and the mask (N, L) of what is only filled up."""

    texts: tuple[WeightedText, ...]
    context: Tensor
    mask: Tensor | None

    def rows(self, wanted: Sequence[WeightedText]) -> Tensor:
        """Where each of these texts stands, (B,) int64."""
        places = {one: k for k, one in enumerate(self.texts)}
        return torch.tensor([places[one] for one in wanted], device=self.context.device)


@dataclass(frozen=True)
class Token:
    """One line of the ledger: a token as the text encoder meets it.

    text: the characters it stands for. chunk: 0 …, None for a token that is lost to the limit.
    place: its column in that chunk, after the begin mark at 0. ends_word: whether a word ends here.
    """

    id: int
    text: str
    weight: float
    chunk: int | None
    place: int
    ends_word: bool


def ledger(
    tokenizer: CLIPTokenizer, written: WeightedText, *, long: Long = "truncate"
) -> list[Token]:
    """Every token of a text in order, marks and padding left out."""
    one = _Pieces(tokenizer, written)
    room = int(tokenizer.model_max_length) - 2
    chunks = one.chunks(room, long)
    tokens = []
    for chunk, part in enumerate(chunks):
        for k in part:
            kept = long == "chunk" or chunk == 0
            last = k + 1 == len(one.ids) or one.words[k + 1] != one.words[k]
            tokens.append(
                Token(
                    id=one.ids[k],
                    text=written.plain[one.starts[k] : one.ends[k]],
                    weight=one.weights[k],
                    chunk=chunk if kept else None,
                    place=k - part.start + 1,
                    ends_word=last,
                )
            )
    return tokens


def tokenize(
    tokenizer: CLIPTokenizer, texts: Sequence[WeightedText], *, long: Long = "truncate"
) -> tuple[TokenBatch, Tensor | None]:
    """Tokens of texts, and the weight of each token in their shape; None when all are 1.

    Each span is tokenized for itself, so a change of weight ends a word, as in A1111. Ordinary
    texts give what `text.tokenize` gives. The marks and the padding weigh 1.
    """
    plain = [one.plain for one in texts]
    if all(one.is_plain for one in texts):
        return text.tokenize(tokenizer, plain, long=long), None
    limit = int(tokenizer.model_max_length)
    pieces = [_Pieces(tokenizer, one) for one in texts]
    parts = [one.chunks(limit - 2, long) for one in pieces]
    filled = [len(several) if long == "chunk" else 1 for several in parts]
    shape = (len(texts), max(filled), limit)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = torch.full(shape, tokenizer.pad_token_id, dtype=torch.int64)
    ids[:, :, 0], ids[:, :, 1] = begin, end
    weights = torch.ones(shape)
    dropped = []
    for row, (one, several) in enumerate(zip(pieces, parts, strict=True)):
        for k, part in enumerate(several[: filled[row]]):
            inside = slice(1, 1 + len(part))
            ids[row, k, inside] = torch.tensor(one.ids[part.start : part.stop], dtype=torch.int64)
            ids[row, k, 1 + len(part)] = end
            weights[row, k, inside] = torch.tensor(one.weights[part.start : part.stop])
        rest = several[filled[row]].start if len(several) > filled[row] else None
        dropped.append(() if rest is None else text.words_from(plain[row], one.starts[rest]))
    if long == "truncate":
        ids, weights = ids[:, 0], weights[:, 0]
    return TokenBatch(ids, tuple(dropped), tuple(filled)), weights


class _Pieces:
    """The tokens of a text's spans, one after the other."""

    def __init__(self, tokenizer: CLIPTokenizer, written: WeightedText) -> None:
        spans = [span.text for span in written.spans]
        found: list[Uncut] = text.uncut(tokenizer, spans)
        self.ids: list[int] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.words: list[tuple[int, int | None]] = []
        self.weights: list[float] = []
        self.breaks: list[int] = []
        offsets = accumulate((len(one) for one in spans), initial=0)
        for number, (span, one, offset) in enumerate(
            zip(written.spans, found, offsets, strict=False)
        ):
            if span.breaks:
                self.breaks.append(len(self.ids))
            self.ids += one.ids
            self.starts += [offset + start for start in one.starts]
            self.ends += [offset + stop for stop in one.ends]
            self.words += [(number, word) for word in one.words]
            self.weights += [span.weight] * len(one.ids)

    def chunks(self, room: int, long: Long) -> list[range]:
        """Pieces of at most `room` tokens: whole words, or cut at the limit; at least one."""
        if long == "truncate":
            whole = range(len(self.ids))
            return [whole[:room], whole[room:]] if len(whole) > room else [whole]
        edges = [0, *self.breaks, len(self.ids)]
        return [
            range(first + part.start, first + part.stop)
            for first, last in pairwise(edges)
            for part in text.split(self.words[first:last], room)
            if len(part)
        ] or [range(0)]


def weigh(context: Tensor, weights: Tensor, syntax: Syntax, empty: Tensor | None = None) -> Tensor:
    """Contexts (B, L, D) with each token's vector changed by its weight (B, L).

    a1111: z w, then the whole text's mean over L and D is brought back to what it was, by one
    factor (A1111's emphasis "Original", but for each text alone). An encoder whose mean is next to
    nothing says nothing about sizes by it: where the factor would not lie in 1/2 … 2, it is 1.
    comfyui: z_0 + w (z - z_0), with `empty` (L, D) the empty text's z_0.
    Where a text has no weight but 1, it is left as it is, bit by bit.
    """
    wide = context.float()
    by = weights.to(context.device)[..., None]
    if syntax == "comfyui":
        assert empty is not None, "ComfyUI's weights start from the empty text"
        changed = empty.float() + by * (wide - empty.float())
        changed = torch.where(by == 1.0, wide, changed)
    else:
        changed = wide * by
        factor = wide.mean(dim=(1, 2)) / changed.mean(dim=(1, 2))
        sane = (factor >= 1 / LARGEST_RESTORING) & (factor <= LARGEST_RESTORING)
        changed = changed * torch.where(sane, factor, torch.ones_like(factor))[:, None, None]
    untouched = (by == 1.0).all(dim=1, keepdim=True)
    return torch.where(untouched, wide, changed).to(context.dtype)


def encode(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    texts: Sequence[WeightedText],
    *,
    long: Long = "truncate",
    clip_skip: int = 0,
    syntax: Syntax = "a1111",
) -> Encoded:
    """Contexts of texts in one call of the text encoder, each distinct text encoded once.

    A chunk is weighed as a text of its own. clip_skip: see `text.encode`.
    """
    distinct = tuple(dict.fromkeys(texts))
    tokens, weights = tokenize(tokenizer, distinct, long=long)
    context = text.encode(text_encoder, tokens.input_ids, clip_skip=clip_skip)
    if weights is not None:
        length = int(tokenizer.model_max_length)
        empty = None
        if syntax == "comfyui":
            nothing, _ = tokenize(tokenizer, [WeightedText((Span(""),))])
            (empty,) = text.encode(text_encoder, nothing.input_ids, clip_skip=clip_skip)
        chunks = context.reshape(-1, length, context.shape[-1])
        changed = weigh(chunks, weights.reshape(-1, length), syntax, empty)
        context = changed.reshape(context.shape)
    return Encoded(distinct, context, text.context_mask(tokens))
