"""Token ids of captions, remembered: a data set says the same thing often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from latentdiff.conditioning.text import TokenBatch, context_mask, tokenize

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

LIMIT = 200_000
"""Captions remembered; then the memory starts afresh."""


class CaptionTokens:
    """`tokens(captions) -> (B, L) int64`, or (B, k, L) where a caption takes k chunks.

    long: what becomes of captions over the tokenizer's length L. "error": there are none, which
    the caller has seen to; "truncate": they are cut; "chunk": they take as many chunks as needed.
    """

    def __init__(
        self, tokenizer: CLIPTokenizer, long: Literal["error", "truncate", "chunk"] = "error"
    ) -> None:
        self.tokenizer, self.long = tokenizer, long
        self._known: dict[str, Tensor] = {}

    def __call__(self, captions: Sequence[str]) -> Tensor:
        self._learn(captions)
        rows = [self._known[text] for text in captions]
        if self.long != "chunk":
            return torch.stack(rows)
        most = max(len(row) for row in rows)
        empty = self._empty()
        return torch.stack([torch.cat([row, *[empty] * (most - len(row))]) for row in rows])

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """input_ids, and where prompts differ in chunks context_mask (B, k·L) bool: false for the
        empty chunks that stand only beside a longer caption, so that a caption means the same in
        any batch."""
        ids = self(captions)
        counts = [len(self._known[text]) if ids.ndim == 3 else 1 for text in captions]
        mask = context_mask(TokenBatch(ids, ((),) * len(counts), tuple(counts)))
        return {"input_ids": ids} if mask is None else {"input_ids": ids, "context_mask": mask}

    def _learn(self, captions: Sequence[str]) -> None:
        if len(self._known) > LIMIT:
            self._known.clear()
        new = [text for text in dict.fromkeys(captions) if text not in self._known]
        if not new:
            return
        if self.long == "chunk":
            found = tokenize(self.tokenizer, new, long="chunk")
            for text, ids, count in zip(new, found.input_ids, found.chunks, strict=True):
                self._known[text] = ids[:count]
            return
        found = tokenize(self.tokenizer, new)
        for text, ids, dropped in zip(new, found.input_ids, found.dropped, strict=True):
            if self.long == "error":
                assert not dropped, f"training caption cut at {dropped}: {text!r}"
            self._known[text] = ids

    def _empty(self) -> Tensor:
        self._learn([""])
        return self._known[""]
