"""Training the U-Net: from nothing on scenes, or a base model on pictures of one's own."""

from latentdiff.training.text_to_image.config import PRESETS, DataConfig, TextToImageConfig
from latentdiff.training.text_to_image.module import Noising, UNetModule
from latentdiff.training.text_to_image.task import TextToImageTask

__all__ = [
    "PRESETS",
    "DataConfig",
    "Noising",
    "TextToImageConfig",
    "TextToImageTask",
    "UNetModule",
]
