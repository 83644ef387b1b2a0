"""What a feed needs to know, whatever the task: data, captions, sizes, and a seed."""

from __future__ import annotations

from dataclasses import dataclass, field

from latentdiff.data.buckets import Bucket
from latentdiff.data.captions import CaptionConfig, CaptionPolicy
from latentdiff.data.records import Source
from latentdiff.data.transforms import Crop
from latentdiff.training.feeds.data_config import DataConfig


@dataclass(frozen=True, kw_only=True)
class FeedSettings:
    """How the user's own images become samples.

    size: side in pixels of the images that the networks were made for. multiple: what every side
    must be a multiple of. seed: of the run. batch_size: samples a step, which share a bucket.
    most_held_out: images held out for validation, at most. need_captions: leave out images that
    have none.
    """

    data: DataConfig
    size: int
    multiple: int
    seed: int
    batch_size: int
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    crop: Crop = "center"
    most_held_out: int = 64
    need_captions: bool = True

    def open(self, where: str) -> Source:
        """The images and captions at `where`, listed."""
        return self.data.source.open(where, need_captions=self.need_captions)

    def open_training(self) -> Source:
        """Those of --data."""
        assert self.data.data is not None
        return self.open(self.data.data)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The run's buckets; UserError for a resolution that the networks cannot take."""
        return self.data.sizes.make(self.size, self.multiple)

    @property
    def upscale(self) -> bool:
        """Whether images smaller than their bucket are enlarged."""
        return self.data.sizes.upscale

    def policy(self) -> CaptionPolicy:
        """What picks the words of each sample."""
        return CaptionPolicy(self.captions, self.seed)
