"""Does a model's text tower tell the world's subjects apart?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff.conditioning.text import encode, tokenize
from latentdiff.evaluation.result_table import table
from latentdiff.evaluation.text_spread import TextSpread, text_spread
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.scenes.captions import prompt
from latentdiff.scenes.catalog import SUBJECTS, base_subjects, illustrated_settings

SHOWN = (2, 3, 5, 9, 13, 17, 21, 37)
"""Which singular values a table shows, counted from 1."""
_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """spreads: where the prompts were read, and what was found there."""

    model: str
    prompts: int
    spreads: Mapping[str, TextSpread]

    def table(self) -> str:
        """A row for each place of reading."""
        header = ["read at", "subject %", "setting %", "both %", *(f"s{k}" for k in SHOWN)]
        rows = []
        for name, found in self.spreads.items():
            shares = [f"{100 * part:.0f}" for part in (found.subject, found.setting, found.both)]
            values = [
                f"{found.singular_values[k - 1]:.3f}" if k <= len(found.singular_values) else "–"
                for k in SHOWN
            ]
            rows.append([name, *shares, *values])
        return f"{table(header, rows)}\n\n{self.prompts:,} prompts, {self.model}; s1 is 1"

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        spreads = {name: asdict(found) for name, found in self.spreads.items()}
        return {"measurement": "text", "model": self.model, "spreads": spreads}


@torch.no_grad()
def measure_text(model: MeasuredModel) -> TextReport:
    """Encode "a SUBJECT SETTING" for all trained subjects and all settings with a place.

    Read at the end of the text, which is what is pooled, and at the subject's last word.
    """
    subjects, settings = base_subjects(), illustrated_settings()
    bundle = model.pipeline.bundle

    def ids_of(texts: list[str]) -> Tensor:
        return tokenize(bundle.tokenizer, texts).input_ids

    said = ids_of([prompt((s,), where) for s in subjects for where in settings])
    words = _end(ids_of([f"a {SUBJECTS[s].name}" for s in subjects]), bundle.tokenizer) - 1
    contexts = torch.cat(
        [
            encode(bundle.text_encoder, part.to(bundle.text_encoder.device)).float().cpu()
            for part in said.split(_BATCH)
        ]
    )
    places = {
        "the end": _end(said, bundle.tokenizer),
        "the subject's word": words.repeat_interleave(len(settings)),
    }
    rows = torch.arange(len(contexts))
    shape = (len(subjects), len(settings), -1)
    return TextReport(
        model=model.name,
        prompts=len(contexts),
        spreads={
            name: text_spread(contexts[rows, at].reshape(shape).double().numpy().astype(np.float64))
            for name, at in places.items()
        },
    )


def _end(ids: Tensor, tokenizer: Any) -> Tensor:
    """Where each text ends: its first end-of-text token."""
    return (ids == tokenizer.eos_token_id).int().argmax(dim=1)
