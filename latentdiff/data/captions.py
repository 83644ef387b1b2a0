"""Which words a visit to a picture sees, and how long captions are for the text encoder.

A pick is a pure function of (run seed, position). Its three draws, dropout, choice and shuffle,
come in this order from one generator, so changing one setting leaves the others' draws alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentdiff import seeding
from latentdiff.data.records import Source
from latentdiff.errors import UserError

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Tokens of each caption, begin and end marks included, before any cut."""
LostWords = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]
"""Caption → the words beyond the text encoder's limit, for captions that have any."""
LISTED = 1000
"""Captions over the limit that a report names; it counts them all."""
_TOGETHER = 4096
"""Rows whose captions are counted in one call; equal captions among them are counted once."""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """What becomes of captions before the text encoder reads them."""

    caption_dropout: float = 0.1
    """Share of visits that see the empty caption, for classifier-free guidance."""
    caption_choice: Literal["random", "first"] = "random"
    """Which caption a visit sees when a picture has several."""
    trigger_words: str = ""
    """Words put before every caption, with a comma, unless it holds them already."""
    shuffle_tags: bool = False
    """Take captions for lists of tags, in a new order at every visit (not with a cache)."""
    keep_tags: int = 1
    """Tags at the beginning that stay where they are when tags are shuffled."""
    tag_separator: str = ","
    """What stands between two tags."""
    long_captions: Literal["error", "truncate", "chunk"] = "error"
    """Captions over the text encoder's limit: refuse them, cut them, or encode them in pieces."""

    def __post_init__(self) -> None:
        if not 0 <= self.caption_dropout <= 1:
            raise UserError(f"caption_dropout is {self.caption_dropout}, expected 0 … 1")
        if self.keep_tags < 0:
            raise UserError(f"keep_tags is {self.keep_tags}, expected 0 or more")
        if not self.tag_separator.strip():
            raise UserError("tag_separator is empty: tags need a mark between them, such as ','")


def static(config: CaptionConfig) -> bool:
    """Whether a picture has only a few texts, so that their embeddings can be cached."""
    return not config.shuffle_tags


class CaptionPolicy:
    """Picks the words of each visit."""

    def __init__(self, config: CaptionConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self._trigger = re.compile(rf"(?<!\w){re.escape(config.trigger_words)}(?!\w)")

    def pick(self, captions: Sequence[str], position: int) -> str:
        """The text for a position of the run; "" when dropped, or when there is no caption."""
        config = self.config
        draw = seeding.generator(self.seed, "caption", position)
        dropped = draw.random() < config.caption_dropout
        if dropped or not captions:
            return "" if dropped else self.text("")
        chosen = draw.random()  # drawn even where there is no choice, so that the order holds
        first = config.caption_choice == "first"
        caption = captions[0 if first else int(chosen * len(captions))]
        if config.shuffle_tags:
            tags = self._tags(caption)
            fixed, rest = tags[: config.keep_tags], tags[config.keep_tags :]
            caption = self._joined([*fixed, *(rest[k] for k in draw.permutation(len(rest)))])
        return self.text(caption)

    def texts(self, captions: Sequence[str]) -> tuple[str, ...]:
        """All texts that `pick` can give for a picture, in one order of its tags, without ""."""
        chosen = captions[:1] if self.config.caption_choice == "first" else captions
        if self.config.shuffle_tags:
            chosen = [self._joined(self._tags(caption)) for caption in chosen]
        texts = dict.fromkeys(self.text(caption) for caption in chosen or ("",))
        return tuple(text for text in texts if text)

    def text(self, caption: str) -> str:
        """A caption with the trigger words before it, unless it holds them."""
        trigger = self.config.trigger_words
        if not trigger or self._trigger.search(caption):
            return caption
        return f"{trigger}, {caption}" if caption else trigger

    def _tags(self, caption: str) -> list[str]:
        parts = (part.strip() for part in caption.split(self.config.tag_separator))
        return [part for part in parts if part]

    def _joined(self, tags: Sequence[str]) -> str:
        return f"{self.config.tag_separator.rstrip()} ".join(tags)


@dataclass(frozen=True)
class LongCaption:
    """A caption over the limit: its sample, its tokens, and the words beyond the limit."""

    row: int
    id: str
    caption: str
    tokens: int
    lost: tuple[str, ...]

    def __str__(self) -> str:
        lost = " ".join(self.lost) or "its last words"
        return f"{self.id}: {self.tokens} tokens, beyond the limit: {_shortened(lost)}"


@dataclass(frozen=True, eq=False)
class CaptionReport:
    """Token counts of all texts that a run can see, each of a picture's captions counted.

    limit: tokens that the text encoder reads at once, begin and end marks included.
    histogram: (longest + 1,) int64, captions by their number of tokens, marks included.
    over: captions beyond the limit. long: the first of them, at most `LISTED`.
    without: (k,) int64, rows that have no caption. beyond: every text that is over the limit.
    """

    limit: int
    histogram: NDArray[np.int64]
    over: int
    long: tuple[LongCaption, ...]
    without: NDArray[np.int64]
    beyond: frozenset[str] = frozenset()

    @property
    def longest(self) -> int:
        """Tokens of the longest caption, marks included."""
        return len(self.histogram) - 1

    def text(self) -> str:
        """The histogram, a bar a range of token counts, and what lies beyond the limit."""
        step = max(1, -(-self.limit // 10))
        bars = []
        for high in range(self.limit, 0, -step)[::-1]:
            low = max(0, high - step + 1)
            name = f"{low}-{high}" if low < high else str(high)
            bars.append((name, int(self.histogram[low : high + 1].sum())))
        first = next((k for k, (_, count) in enumerate(bars) if count), 0)
        bars = [*bars[first:], (f"over {self.limit}", self.over)]
        most = max(1, *(count for _, count in bars))
        wide = max(len(name) for name, _ in bars)
        lines = [f"{'tokens':>{wide}}  captions"]
        for name, count in bars:
            bar = "█" * -(-30 * count // most)
            lines.append(f"{name:>{wide}}  {count:>8,}  {bar}".rstrip())
        return "\n".join([*lines, *self.lines()])

    def lines(self, most: int = 10) -> list[str]:
        """A line a caption beyond the limit, at most so many, and one for rows without caption."""
        lines = [str(long) for long in self.long[:most]]
        if self.over > len(lines):
            lines.append(f"… and {self.over - len(lines):,} more over {self.limit} tokens")
        if len(self.without):
            what = "picture has" if len(self.without) == 1 else "pictures have"
            lines.append(f"{len(self.without):,} {what} no caption")
        return lines

    def refuse_long(self) -> None:
        """Raise UserError when a caption is beyond the limit."""
        if self.over:
            what = "caption is" if self.over == 1 else "captions are"
            raise UserError(
                f"{self.over:,} {what} over the text encoder's {self.limit} tokens (the first is "
                f"{self.long[0]}); shorten them, or cut them with --long-captions truncate, or "
                "encode them in pieces with --long-captions chunk"
            )


def lengths(
    source: Source,
    count_tokens: CountTokens,
    limit: int,
    *,
    lost_words: LostWords | None = None,
    config: CaptionConfig | None = None,
) -> CaptionReport:
    """Count the tokens of every text that training on `source` can see.

    limit: the text encoder's, marks included. lost_words: names the words beyond it. config: which
    captions are seen, and the trigger words before them; by default all, as they are.
    """
    policy = CaptionPolicy(config or CaptionConfig(), 0)
    histogram = np.zeros(1, np.int64)
    over = 0
    long: list[tuple[int, str, int]] = []
    without: list[int] = []
    beyond: set[str] = set()
    for first in range(0, len(source), _TOGETHER):
        rows = range(first, min(first + _TOGETHER, len(source)))
        texts = [policy.texts(source.captions(row)) for row in rows]
        without += [row for row in rows if not any(source.captions(row))]
        distinct = list(dict.fromkeys(text for several in texts for text in several))
        counted = dict(zip(distinct, count_tokens(distinct) if distinct else (), strict=True))
        tokens = np.array([counted[text] for several in texts for text in several], np.int64)
        found = np.bincount(tokens, minlength=len(histogram))
        found[: len(histogram)] += histogram
        histogram = found
        if not (tokens > limit).any():
            continue
        over += int((tokens > limit).sum())
        beyond.update(text for text in distinct if counted[text] > limit)
        for row, several in zip(rows, texts, strict=True):
            long += [(row, text, counted[text]) for text in several if counted[text] > limit]
        del long[LISTED:]
    lost = lost_words([text for _, text, _ in long]) if lost_words is not None and long else {}
    return CaptionReport(
        limit=limit,
        histogram=histogram,
        over=over,
        long=tuple(
            LongCaption(row, source.id(row), text, tokens, tuple(lost.get(text, ())))
            for row, text, tokens in long
        ),
        without=np.array(without, np.int64),
        beyond=frozenset(beyond),
    )


def _shortened(words: str, most: int = 80) -> str:
    return words if len(words) <= most else f"{words[:most].rstrip()}…"
