"""`[before:after:when]` and `[one|other]`: prompts that change from step to step."""

from __future__ import annotations

import re
from dataclasses import dataclass

from latentdiff.conditioning.prompt_weights import DEEPEST, too_deep

_WHEN = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*")
_PIECES = re.compile(r"\\.|[()\[\]:|]|[^\\()\[\]:|]+|\\", re.S)


@dataclass(frozen=True)
class Switch:
    """`[before:after:when]`; when: of the steps, a fraction of them if `fraction`."""

    before: Nodes
    after: Nodes
    when: float
    fraction: bool


@dataclass(frozen=True)
class Alternate:
    """`[one|other]`: another option at every step, round and round."""

    options: tuple[Nodes, ...]


Nodes = tuple[str | Switch | Alternate, ...]


class _Frame:
    """What stands since a bracket was opened: segments of nodes, and what is between them."""

    def __init__(self, opener: str) -> None:
        self.opener = opener
        self.segments: list[list[str | Switch | Alternate]] = [[]]
        self.between: list[str] = []

    def flat(self) -> list[str | Switch | Alternate]:
        """All of it as it was written, the opening bracket first."""
        nodes: list[str | Switch | Alternate] = [self.opener] if self.opener else []
        for k, segment in enumerate(self.segments):
            nodes += [self.between[k - 1]] if k else []
            nodes += segment
        return nodes


def scheduled(text: str) -> Nodes:
    """The tree of `[before:after:when]`, `[after:when]` and `[one|other]` in a text.

    Brackets that mean neither stay in the text, for the weights to be read.
    """
    stack = [_Frame("")]

    def close(into_text: str) -> None:
        frame = stack.pop()
        stack[-1].segments[-1] += [*frame.flat(), into_text] if into_text else frame.flat()

    for match in _PIECES.finditer(text):
        piece = match[0]
        frame = stack[-1]
        if piece in ("(", "["):
            if len(stack) > DEEPEST:
                raise too_deep()
            stack.append(_Frame(piece))
        elif piece == ")" and frame.opener == "(":
            close(")")
        elif piece == "]" and any(f.opener == "[" for f in stack):
            while stack[-1].opener == "(":
                close("")
            node = _meaning(stack[-1])
            if node is None:
                close("]")
            else:
                stack.pop()
                stack[-1].segments[-1].append(node)
        elif piece in (":", "|") and frame.opener == "[":
            frame.between.append(piece)
            frame.segments.append([])
        else:
            frame.segments[-1].append(piece)
    while len(stack) > 1:
        close("")
    return _merged(stack[0].segments[0])


def _meaning(frame: _Frame) -> Switch | Alternate | None:
    """What square brackets mean besides less weight, or None."""
    if "|" in frame.between:
        options: list[list[str | Switch | Alternate]] = [[]]
        for k, segment in enumerate(frame.segments):
            if k and frame.between[k - 1] == "|":
                options.append([])
            elif k:
                options[-1].append(":")
            options[-1] += segment
        return Alternate(tuple(map(_merged, options)))
    last = _merged(frame.segments[-1])
    count = len(frame.segments)
    if count not in (2, 3) or len(last) != 1 or not isinstance(last[0], str):
        return None
    when = _WHEN.fullmatch(last[0])
    if when is None:
        return None
    before = _merged(frame.segments[0]) if count == 3 else ()
    return Switch(before, _merged(frame.segments[-2]), float(when[1]), "." in when[1])


def _merged(nodes: list[str | Switch | Alternate]) -> Nodes:
    """Neighbouring texts as one."""
    merged: list[str | Switch | Alternate] = []
    for node in nodes:
        last = merged[-1] if merged else None
        if isinstance(node, str) and isinstance(last, str):
            merged[-1] = last + node
        else:
            merged.append(node)
    return tuple(merged)


def render(nodes: Nodes, step: int, steps: int) -> str:
    """The text at a step, 0 … steps - 1: `before` up to and with step number `when` of 1 … steps,
    a fraction of them rounded down."""
    written = []
    for node in nodes:
        if isinstance(node, str):
            written.append(node)
        elif isinstance(node, Alternate):
            written.append(render(node.options[step % len(node.options)], step, steps))
        else:
            last = min(steps, int(node.when * steps if node.fraction else node.when))
            written.append(render(node.before if step < last else node.after, step, steps))
    return "".join(written)
