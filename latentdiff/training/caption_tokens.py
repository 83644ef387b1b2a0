"""Token ids of captions, remembered: a small world says the same thing often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentdiff.conditioning.text import tokenize

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

LIMIT = 200_000
"""Captions remembered; then the memory starts afresh."""


class CaptionTokens:
    """`tokens(captions) -> (B, L) int64`; a caption too long for the tokenizer is refused."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, Tensor] = {}

    def __call__(self, captions: Sequence[str]) -> Tensor:
        if len(self._known) > LIMIT:
            self._known.clear()
        new = [text for text in dict.fromkeys(captions) if text not in self._known]
        if new:
            found = tokenize(self.tokenizer, new)
            for text, ids, dropped in zip(new, found.input_ids, found.dropped, strict=True):
                assert not dropped, f"training caption cut at {dropped}: {text!r}"
                self._known[text] = ids
        return torch.stack([self._known[text] for text in captions])
