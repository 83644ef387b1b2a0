"""The prompt language: weights, `AND`, schedules, alternation. Text in, texts with weights out.

The grammar is that of AUTOMATIC1111's web UI (`modules/prompt_parser.py`); docs/prompts.md says it
in full. Pure: no torch, no files. Any text is either read or refused by one UserError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from latentdiff.conditioning.prompt_schedule import Nodes, render, scheduled
from latentdiff.conditioning.prompt_weights import (
    NUMBER,
    Span,
    WeightedText,
    checked,
    weighted,
    weighted_as_comfyui,
)
from latentdiff.conditioning.settings import Syntax
from latentdiff.errors import UserError

MOST_PARTS = 16
"""Prompts that `AND` may join."""

_AND = re.compile(r"\bAND\b")
_PART_WEIGHT = re.compile(rf"(.*?)(?:\s*:\s*({NUMBER}))?\s*", re.S)


@dataclass(frozen=True)
class Part:
    """One of the prompts that `AND` joins, and its weight in the composition."""

    nodes: Nodes
    weight: float = 1.0


@dataclass(frozen=True)
class Prompt:
    """A prompt that was read; see `parse`."""

    parts: tuple[Part, ...]
    syntax: Syntax = "a1111"

    @property
    def varies(self) -> bool:
        """Whether any of its texts changes from step to step."""
        return any(not isinstance(node, str) for part in self.parts for node in part.nodes)

    @property
    def weights(self) -> tuple[float, ...]:
        """Of each part in the composition."""
        return tuple(part.weight for part in self.parts)

    def at(self, step: int, steps: int) -> tuple[WeightedText, ...]:
        """The text of each part at a step, 0 … steps - 1."""
        return tuple(_text(render(part.nodes, step, steps), self.syntax) for part in self.parts)

    def texts(self, steps: int) -> tuple[WeightedText, ...]:
        """All its texts at all steps, each once, in the order of their first step."""
        count = steps if self.varies else 1
        return tuple(dict.fromkeys(text for k in range(count) for text in self.at(k, steps)))


def parse(text: str, syntax: Syntax = "a1111", *, composed: bool = True) -> Prompt:
    """Read a prompt; UserError, one line, for a weight or a nesting that is out of bounds.

    syntax: "plain" takes every character literally; "comfyui" knows round brackets alone.
    composed: whether `AND` joins prompts; in a negative prompt it is a word.
    """
    if syntax != "a1111":
        prompt = Prompt((Part((text,)),), syntax)
    elif composed and len(pieces := _AND.split(text)) > 1:
        if len(pieces) > MOST_PARTS:
            raise UserError(f"AND joins {len(pieces)} prompts; expected at most {MOST_PARTS}")
        prompt = Prompt(tuple(_part(piece) for piece in pieces))
    else:
        prompt = Prompt((Part(scheduled(text)),))
    prompt.at(0, 1)
    return prompt


def _part(piece: str) -> Part:
    found = _PART_WEIGHT.fullmatch(piece)
    assert found is not None
    weight = 1.0 if found[2] is None else checked(float(found[2]))
    return Part(scheduled(found[1].strip()), weight)


def _text(written: str, syntax: Syntax) -> WeightedText:
    if syntax == "plain":
        return WeightedText((Span(written),))
    return weighted(written) if syntax == "a1111" else weighted_as_comfyui(written)
