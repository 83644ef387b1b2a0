"""Training the U-Net: from nothing on scenes, or a base model on pictures of one's own."""

from latentdiff.training.feeds.data_config import DataConfig
from latentdiff.training.tasks.text_to_image.module import UNetModule
from latentdiff.training.tasks.text_to_image.task import TextToImageTask
from latentdiff.training.tasks.text_to_image.text_to_image_config import (
    PRESETS,
    TextToImageConfig,
)

__all__ = [
    "PRESETS",
    "DataConfig",
    "TextToImageConfig",
    "TextToImageTask",
    "UNetModule",
]
