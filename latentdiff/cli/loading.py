"""A command's model: opened with its LoRAs, and what the user should know printed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentdiff.cli.options import ModelOptions
from latentdiff.cli.stages import Stages

if TYPE_CHECKING:
    from latentdiff.models.lora.formats import LoraFile
    from latentdiff.pipelines.text_to_image import TextToImagePipeline


def load(options: ModelOptions) -> TextToImagePipeline:
    """The pipeline on its device with the LoRAs in its weights; notes go to standard error."""
    with Stages().stage(f"loading {options.model}"):
        from latentdiff import devices

        device = devices.find_device(options.device, among=("cuda", "mps", "cpu"))
        dtype = devices.find_dtype(options.dtype, device)
        slow = None if options.dtype == "auto" else devices.slow_dtype_note(dtype, device)
        loras = read_loras(options.lora)
        from latentdiff.pipelines.text_to_image import TextToImagePipeline

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipeline = TextToImagePipeline.from_pretrained(
                options.model, dtype=dtype, device=device
            )
    print_notes([slow, *(str(w.message) for w in caught if w.category is UserWarning)])
    add_loras(pipeline, loras)
    return pipeline


def read_loras(given: Sequence[str]) -> list[tuple[LoraFile, float]]:
    """The LoRA files and their scales, read before the model is: a wrong one is told at once."""
    if not given:
        return []
    from latentdiff.models.lora.formats import read_lora
    from latentdiff.models.lora.stack import parse_lora

    chosen = [parse_lora(text) for text in given]
    return [(read_lora(path), scale) for path, scale in chosen]


def add_loras(pipeline: TextToImagePipeline, loras: Sequence[tuple[LoraFile, float]]) -> None:
    """Add them to the weights; what each changed, and what did not fit, is printed."""
    for file, scale in loras:
        report = pipeline.loras.load(file, scale)
        print(f"lora: {report.summary()}", file=sys.stderr)
        print_notes(report.lines())


def print_notes(lines: Sequence[str | None]) -> None:
    """Each line as a note on standard error."""
    for line in lines:
        if line is not None:
            print(f"note: {line}", file=sys.stderr)
