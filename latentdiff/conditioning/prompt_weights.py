"""Texts with weights: the brackets of a prompt, by A1111's rules and by ComfyUI's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from latentdiff.errors import UserError

MORE = 1.1
"""What a pair of round brackets multiplies by, and a pair of square ones divides by."""
MOST = 100.0
"""Largest weight, of either sign."""
DEEPEST = 64
"""Brackets that may stand open at once."""
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"

_ATTENTION = re.compile(rf"\\.?|[(\[)\]]|:\s*({NUMBER})\s*\)|[^\\()\[\]:]+|:", re.S)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_ROUND = re.compile(r"\\[()]|[()]|[^()\\]+|\\", re.S)
_TAIL = re.compile(rf"(.*):\s*({NUMBER})\s*", re.S)


@dataclass(frozen=True)
class Span:
    """A piece of text with its weight; breaks: whether a new chunk of tokens begins with it."""

    text: str
    weight: float = 1.0
    breaks: bool = False


@dataclass(frozen=True)
class WeightedText:
    """What the text encoder is told: pieces side by side.

    Hashable, and unequal when a weight is: as the key of a cache, weights belong to its identity.
    """

    spans: tuple[Span, ...]

    @property
    def plain(self) -> str:
        """The words without their weights."""
        return "".join(span.text for span in self.spans)

    @property
    def is_plain(self) -> bool:
        """Whether it is one ordinary text: nothing weighted, no chunk begun by hand."""
        return self.spans == (Span(self.plain),)


def weighted(text: str) -> WeightedText:
    """The pieces of a text and their weights, as A1111's `parse_prompt_attention` reads it.

    `(x)` times 1.1, `[x]` divided by 1.1, `(x:w)` times w, multiplied where nested; a bracket that
    is never closed reaches to the end, one that was never opened is text. A backslash makes the
    character after it text. `BREAK` begins a chunk.
    """
    found: list[Span] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        for k, span in enumerate(found[start:], start):
            found[k] = Span(span.text, checked(span.weight * factor), span.breaks)

    for match in _ATTENTION.finditer(text):
        piece, number = match[0], match[1]
        if piece.startswith("\\"):
            found.append(Span(piece[1:]))
        elif piece in opened:
            opened[piece].append(len(found))
            if len(opened["("]) + len(opened["["]) > DEEPEST:
                raise too_deep()
        elif number is not None and opened["("]:
            multiply(opened["("].pop(), float(number))
        elif piece == ")" and opened["("]:
            multiply(opened["("].pop(), MORE)
        elif piece == "]" and opened["["]:
            multiply(opened["["].pop(), 1 / MORE)
        else:
            found += [Span(part, breaks=k > 0) for k, part in enumerate(_BREAK.split(piece))]
    for kind, factor in (("(", MORE), ("[", 1 / MORE)):
        for start in opened[kind]:
            multiply(start, factor)
    return _joined(found)


def weighted_as_comfyui(text: str) -> WeightedText:
    """The pieces of a text and their weights, as ComfyUI's `token_weights` reads it.

    `(x)` times 1.1; `(x:w)` sets w, whatever stands around it. Square brackets, and round ones
    without a partner, are text.
    """
    stack: list[list[str | _Group]] = [[]]
    for match in _ROUND.finditer(text):
        piece = match[0]
        if piece == "(":
            stack.append([])
            if len(stack) > DEEPEST:
                raise too_deep()
        elif piece == ")" and len(stack) > 1:
            group = _group(stack.pop())
            stack[-1].append(group)
        else:
            _append(stack[-1], piece[1:] if piece in ("\\(", "\\)") else piece)
    while len(stack) > 1:
        unclosed = stack.pop()
        for item in ("(", *unclosed):
            if isinstance(item, str):
                _append(stack[-1], item)
            else:
                stack[-1].append(item)
    return _joined(_spans(stack[0], 1.0))


@dataclass(frozen=True)
class _Group:
    """What stands in round brackets, and its own weight if it names one."""

    items: tuple[str | _Group, ...]
    weight: float | None


def _append(items: list[str | _Group], text: str) -> None:
    last = items[-1] if items else None
    if isinstance(last, str):
        items[-1] = last + text
    else:
        items.append(text)


def _group(items: list[str | _Group]) -> _Group:
    last = items[-1] if items else None
    tail = _TAIL.fullmatch(last) if isinstance(last, str) else None
    if tail is None or not (tail[1] or len(items) > 1):
        return _Group(tuple(items), None)
    return _Group((*items[:-1], tail[1]), checked(float(tail[2])))


def _spans(items: list[str | _Group] | tuple[str | _Group, ...], weight: float) -> list[Span]:
    spans = []
    for item in items:
        if isinstance(item, str):
            spans.append(Span(item, weight))
        else:
            spans += _spans(
                item.items, checked(weight * MORE) if item.weight is None else item.weight
            )
    return spans


def _joined(spans: list[Span]) -> WeightedText:
    """Neighbours of one weight as one piece; an empty text is one empty piece."""
    joined: list[Span] = []
    for span in spans:
        if not span.text and not span.breaks:
            continue
        if joined and joined[-1].weight == span.weight and not span.breaks:
            last = joined[-1]
            joined[-1] = Span(last.text + span.text, last.weight, last.breaks)
        else:
            joined.append(span)
    return WeightedText(tuple(joined) or (Span(""),))


def checked(weight: float) -> float:
    """The weight; UserError when it is too large to mean anything."""
    if not abs(weight) <= MOST:
        raise UserError(
            f"a weight in the prompt comes to {weight:g}; expected -{MOST:g} … {MOST:g}"
        )
    return weight


def too_deep() -> UserError:
    """The error for brackets that stand open too deep."""
    return UserError(
        f"brackets stand open more than {DEEPEST} deep in the prompt; write \\( for a bracket that "
        "is text, or draw with --prompt-syntax plain"
    )
