"""A command's model: opened with its LoRAs, and what the user should know printed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentdiff import deferred, devices
from latentdiff.cli.options import ModelOptions
from latentdiff.cli.stages import Stages

if TYPE_CHECKING:
    from latentdiff.models.bundle import Bundle
    from latentdiff.models.embedding import Embedding
    from latentdiff.models.lora.formats import LoraFile
    from latentdiff.models.lora.stack import ChosenLora
    from latentdiff.pipelines.text_to_image import TextToImagePipeline


def load(options: ModelOptions) -> TextToImagePipeline:
    """The pipeline on its device with the LoRAs in its weights; notes go to standard error."""
    with Stages().stage(f"loading {options.model}"):
        deferred.import_torch()
        device = devices.find_device(options.device, among=("cuda", "mps", "cpu"))
        dtype = devices.find_dtype(options.dtype, device)
        slow = None if options.dtype == "auto" else devices.slow_dtype_note(dtype, device)
        loras = read_loras(options.lora)
        embeddings = read_embeddings(options.embedding)
        from latentdiff.models import bundle as bundles
        from latentdiff.pipelines.text_to_image import TextToImagePipeline

        bundle = bundles.load(
            options.model,
            dtype=dtype,
            device=device,
            variant=options.variant,
            vae=options.vae,
            prediction_type=options.prediction_type,
        )
    print_notes([slow, *bundle.notes])
    pipeline = TextToImagePipeline(add_embeddings(bundle, embeddings), backend=options.backend)
    add_loras(pipeline, loras)
    return pipeline


def add_embeddings(bundle: Bundle, embeddings: Sequence[Embedding]) -> Bundle:
    """The model with the learned words, each printed with how it is written in prompts."""
    if embeddings:
        from latentdiff.models.embedding import add_embedding
    for embedding in embeddings:
        bundle = add_embedding(bundle, embedding)
        tokens = len(embedding.vectors)
        print(
            f"embedding: {embedding.path.name} is written {embedding.token!r}, "
            f"{tokens} token{'' if tokens == 1 else 's'}",
            file=sys.stderr,
        )
    return bundle


def read_embeddings(given: Sequence[str]) -> list[Embedding]:
    """The learned words, read before the model is: a wrong one is told at once."""
    if not given:
        return []
    from latentdiff.models.embedding import parse_embedding, read_embedding

    return [read_embedding(*parse_embedding(text)) for text in given]


def read_loras(given: Sequence[str]) -> list[tuple[LoraFile, ChosenLora]]:
    """The LoRA files and their scales, read before the model is: a wrong one is told at once."""
    if not given:
        return []
    from latentdiff.models.lora.formats import read_lora
    from latentdiff.models.lora.stack import parse_lora

    chosen = [parse_lora(text) for text in given]
    return [(read_lora(one.path), one) for one in chosen]


def add_loras(pipeline: TextToImagePipeline, loras: Sequence[tuple[LoraFile, ChosenLora]]) -> None:
    """Add them to the weights; what each changed, and what did not fit, is printed."""
    for file, chosen in loras:
        report = pipeline.loras.load(file, chosen.scale, blocks=chosen.blocks)
        print(f"lora: {report.summary()}", file=sys.stderr)
        print_notes(report.lines())


def print_notes(lines: Sequence[str | None]) -> None:
    """Each line as a note on standard error."""
    for line in lines:
        if line is not None:
            print(f"note: {line}", file=sys.stderr)
