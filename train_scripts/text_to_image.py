"""Train the U-Net: `accelerate launch -m latentdiff.train_scripts.text_to_image --base … --data …`.

Options come from `--preset`, then `--config FILE.yaml`, then the command line. Without a preset,
`--method lora` and `embedding` have the presets of their names, and `--base` has `full`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from latentdiff import config as configs
from latentdiff.training.run.entry import guarded, train_from

if TYPE_CHECKING:
    from PIL import Image

    from latentdiff.conditioning.text import Long
    from latentdiff.models.bundle import Bundle
    from latentdiff.training.context import RunContext
    from latentdiff.training.tasks.text_to_image import TextToImageConfig, TextToImageTask

PROG = "python -m latentdiff.train_scripts.text_to_image"
DESCRIPTION = (
    "Train the U-Net on latents and captions: from nothing, or a base model on your own pictures. "
    "Try: --preset lora --data DIR --run-dir runs/mine. --rehearse [--processes N] does all that "
    "the run will do once, in a minute, and says what the whole will take."
)


def draw(
    bundle: Bundle,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int | None,
    guidance_scale: float | None,
    long_prompts: Long,
) -> list[Image.Image]:
    """Pictures of prompts by the pipeline, picture k from seeds[k] alone."""
    from latentdiff.pipelines.request import Request
    from latentdiff.pipelines.text_to_image import TextToImagePipeline

    requests = [
        Request(
            prompt=prompt,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            long_prompts=long_prompts,
            prompt_syntax="plain",  # captions are text in training too
        )
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    return [picture.image for picture in TextToImagePipeline(bundle).draw(requests)]


def build(config: TextToImageConfig, context: RunContext) -> TextToImageTask:
    """The task, with the pipeline to draw its samples."""
    from latentdiff.training.tasks.text_to_image import TextToImageTask

    return TextToImageTask(config, context, draw)


def pairs_of(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Option and value, of `--option value` and `--option=value`."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            yield name, value if equals else following


def _settings(argv: Sequence[str]) -> dict[str, Any]:
    from latentdiff.training.tasks.text_to_image import PRESETS, TextToImageConfig

    given = dict(pairs_of(argv))
    preset = "full" if "--base" in given else "cpu"
    method = given.get("--method", "full")
    return {
        "config_cls": TextToImageConfig,
        "argv": argv,
        "description": DESCRIPTION,
        "default": PRESETS[method if method in ("lora", "embedding") else preset],
        "presets": PRESETS,
    }


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Train in this process, or rehearse; returns the exit code, raises UserError for a mistake."""
    from latentdiff.training.recipes import rehearsal

    asked = rehearsal.take_flags(argv)
    if asked is not None:
        rest, processes = asked
        settings = _settings(rest)
        config = configs.parse(
            settings.pop("config_cls"), settings.pop("argv"), prog=prog, **settings
        )
        return rehearsal.rehearse(rest, config, processes)
    return train_from(build, name="text-to-image", prog=prog, **_settings(argv))


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:], PROG))
