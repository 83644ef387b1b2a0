"""Choices in a prompt: `{a|b|c}`, and `__name__` for a line of a word list, drawn by a seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from latentdiff import seeding
from latentdiff.errors import UserError, unknown_name
from latentdiff.files import text_file

OF_PROMPT, OF_NEGATIVE = "choices of a prompt", "choices of a negative prompt"
"""The purposes that a picture's two prompts draw for."""
ROUNDS = 16
"""How deep word lists may name word lists."""
LONGEST = 100_000
"""Characters that a prompt may grow to."""

_LIST = re.compile(r"\\.|__([\w-]+(?:/[\w-]+)*?)__", re.S)
_BRACES = re.compile(r"\\.|[{}|]|[^\\{}|]+|\\", re.S)


def read_word_lists(folder: str | Path) -> dict[str, tuple[str, ...]]:
    """Name → lines of every .txt file in a folder and below, `place/sea` for place/sea.txt.

    Empty lines and lines that start with # are skipped. Raises UserError when the folder or a file
    of it cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root} is no folder; expected one with word lists, a .txt file each")
    lists = {}
    for file in sorted(root.rglob("*.txt")):
        kept = tuple(text_file.read_entries(file, "words"))
        lists[file.relative_to(root).with_suffix("").as_posix()] = kept
    return lists


def choose(
    text: str, seed: int, purpose: str, lists: Mapping[str, Sequence[str]] | None = None
) -> str:
    """The text with every choice made: a pure function of its arguments.

    Braces without `|` between them, or without a partner, are text. lists: what `__name__` may
    name; None leaves such names as they are. Choices may stand in choices and in word lists.
    Raises UserError for an unknown or empty list, and for lists that name each other in a circle.
    """
    for round_ in range(ROUNDS):
        listed, lines = _from_lists(text, lists or {}, seed, f"{purpose} {round_}")
        if len(listed) > LONGEST:
            break
        chosen = _from_braces(listed, seed, f"{purpose} {round_}")
        if chosen == text and not lines:
            return chosen
        text = chosen
    raise UserError(
        f"the word lists of the prompt name each other more than {ROUNDS} deep, or in a circle"
    )


def _from_lists(
    text: str, lists: Mapping[str, Sequence[str]], seed: int, purpose: str
) -> tuple[str, int]:
    """The text with a line for each name, and how many there were."""
    count = 0
    if not lists:
        return text, 0

    def line(match: re.Match[str]) -> str:
        nonlocal count
        name = match[1]
        if name is None:
            return match[0]
        if name not in lists:
            raise unknown_name("word list", name, lists)
        if not lists[name]:
            raise UserError(f"the word list {name} is empty; expected a text on each line")
        count += 1
        return lists[name][seeding.integers(len(lists[name]), seed, purpose, "list", count)]

    return _LIST.sub(line, text), count


def _from_braces(text: str, seed: int, purpose: str) -> str:
    """Innermost first; each pair of braces makes its own draw."""
    stack: list[list[str]] = [[""]]
    count = 0
    for match in _BRACES.finditer(text):
        piece = match[0]
        if piece == "{":
            stack.append([""])
        elif piece == "}" and len(stack) > 1:
            options = stack.pop()
            if len(options) > 1:
                count += 1
                stack[-1][-1] += options[seeding.integers(len(options), seed, purpose, count)]
            else:
                stack[-1][-1] += "{" + options[0] + "}"
        elif piece == "|" and len(stack) > 1:
            stack[-1].append("")
        else:
            stack[-1][-1] += piece
    while len(stack) > 1:
        unclosed = stack.pop()
        stack[-1][-1] += "{" + "|".join(unclosed)
    return stack[0][0]
