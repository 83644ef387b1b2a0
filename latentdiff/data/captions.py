"""Which words a visit to a picture sees.

A pick is a pure function of (run seed, position). Its three draws, dropout, choice and shuffle,
come in this order from one generator, so changing one setting leaves the others' draws alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from latentdiff import seeding
from latentdiff.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """What becomes of captions before the text encoder reads them."""

    caption_dropout: float = 0.1
    """Share of visits that see the empty caption, for classifier-free guidance."""
    caption_choice: Literal["random", "first"] = "random"
    """Which caption a visit sees when a picture has several."""
    trigger_words: str = ""
    """Words put before every caption, with a comma, unless it begins with them."""
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
        """A caption with the trigger words before it."""
        trigger = self.config.trigger_words
        if not trigger or caption.startswith(trigger):
            return caption
        return f"{trigger}, {caption}" if caption else trigger

    def _tags(self, caption: str) -> list[str]:
        parts = (part.strip() for part in caption.split(self.config.tag_separator))
        return [part for part in parts if part]

    def _joined(self, tags: Sequence[str]) -> str:
        return f"{self.config.tag_separator.rstrip()} ".join(tags)
