"""How a source is opened: the options that every command with captioned pictures has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latentdiff.data.records import Source
from latentdiff.data.sources.find import open_source
from latentdiff.progress import stage


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which part of the data is meant, and where the pictures and captions are in it."""

    split: str | None = None
    """Part of the data: a folder's, part of the files' names, or a hub data set's split."""
    image_column: str | None = None
    """Column of the pictures in parquet files and hub data sets; found by itself if it can be."""
    caption_column: str | None = None
    """Column or key of the captions: text, caption or prompt if not named."""
    caption_template: str = "a photo of a {label}"
    """Caption of a picture that only has a label, such as its folder's name."""
    captions_from: Literal["metadata", "sidecars", "png"] | None = None
    """Which captions hold where a metadata file and .txt files disagree; png: the prompts that
    generators left in PNG files."""

    def open(
        self, where: str | Path, *, need_captions: bool = True, allow_gif_tiff: bool = False
    ) -> Source:
        """The captioned pictures at `where`, listed; see `open_source`."""
        with stage(f"looking for pictures in {where}"):
            return open_source(
                where,
                split=self.split,
                caption_template=self.caption_template,
                caption_column=self.caption_column,
                image_column=self.image_column,
                captions_from=self.captions_from,
                need_captions=need_captions,
                allow_gif_tiff=allow_gif_tiff,
            )
