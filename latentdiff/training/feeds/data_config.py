"""The user's own images as training data: the options that every task shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from latentdiff.data.buckets import BucketConfig
from latentdiff.data.sources import SourceConfig
from latentdiff.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Your own images: where they are, which are held out, how they are cut."""

    HELP_GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "Your own images": (
            *("data", "validation_data", "validation_share", "prior_data", "prior_share", "flip"),
            *("resolution", "buckets", "max_aspect", "upscale", "crop"),
            *("stream", "shuffle_buffer", "bad_sample_limit"),
        ),
        "Where images and captions are in the data": (
            *("split", "image_column", "caption_column", "caption_template", "captions_from"),
        ),
    }

    data: str | None = None
    """Captioned pictures of your own: a folder, parquet or tar files, or a hub data set."""
    prior_data: str | None = None
    """Other captioned pictures, of what the model knows already, so that learning the new does not
    cost the old (prior preservation, Ruiz et al. 2022); a source like --data."""
    prior_share: float = 0.5
    """Share of the batches that come from --prior-data."""
    validation_data: str | None = None
    """Held-out pictures; without them a share of the data is held out."""
    validation_share: float = 0.1
    """Share of the pictures held out, by a hash of their content; at most --validation-pictures."""
    source: SourceConfig = field(default_factory=SourceConfig)
    sizes: BucketConfig = field(default_factory=BucketConfig)
    flip: bool = False
    """Mirror every other visit. Off, because mirroring breaks "left of" and writing."""
    stream: bool = False
    """Read tar shards in order as they come, never indexed: one square bucket, no held-out share,
    shuffled within a buffer."""
    shuffle_buffer: int = 1000
    """Samples among which a stream is shuffled."""
    bad_sample_limit: float = 0.01
    """Share of pictures that may turn out unreadable before the run stops."""

    def __post_init__(self) -> None:
        for name in ("validation_share", "bad_sample_limit", "prior_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected a number in [0, 1)")
        if self.data is None and (self.stream or self.validation_data or self.prior_data):
            raise UserError("stream, validation_data and prior_data go with --data; give that too")
        if self.stream and self.prior_data is not None:
            raise UserError("prior_data does not go with --stream; leave one of the two out")
        if self.stream and self.flip:
            raise UserError("flip does not go with --stream; leave one of the two out")

    def refuse_missing(self) -> None:
        """UserError for a path that is not there, before large networks are loaded; a hub data
        set's name is left to be looked up later."""
        for where in (self.data, self.prior_data, self.validation_data):
            if where is None or Path(where).expanduser().exists():
                continue
            may_be_pattern = "://" in where or any(mark in where for mark in "*?[{")
            if not (may_be_pattern or where.count("/") == 1):
                self.source.open(where)
