"""The peer stable-diffusion.cpp (ggml), by its package stable-diffusion-cpp-python.

It knows Stable Diffusion's own shapes and takes no others. Its noise and samplers are its own, so
its pictures are not compared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentdiff.bench.drawing.drawers import Draw, Work


def stable_diffusion_cpp(*, name: str, work: Mapping[str, Any]) -> Draw:
    """A single file made of the model's folder, drawn from by Euler's steps: one call of the
    network for each, as DDIM's. RuntimeError for weights that it does not take."""
    from stable_diffusion_cpp import StableDiffusion

    from latentdiff.models import bundle as bundles
    from latentdiff.models.single_file_writer import write_single_file

    asked = Work(**work)
    place = Path(asked.folder) / "model.safetensors"
    write_single_file(bundles.load(asked.model, dtype=None), place)
    threads = int(os.environ["OMP_NUM_THREADS"])
    drawer = StableDiffusion(model_path=str(place), n_threads=threads, verbose=False)

    def draw(number: int) -> Mapping[str, Any]:
        try:
            drawer.generate_image(
                prompt=asked.prompt,
                width=asked.width,
                height=asked.height,
                cfg_scale=asked.guidance_scale,
                sample_method="euler",
                sample_steps=asked.steps,
                batch_count=asked.batch,
                seed=0,
            )
        except ValueError as error:  # a null pointer: nothing was loaded
            raise RuntimeError(f"it does not take weights of this shape ({error})") from error
        return {}

    return draw
