"""Who draws in `bench generate`: this project and diffusers, each as its users call it.

Each maker gives a function of the turn's number that draws the same pictures once. The first time,
it leaves them as `NAME.npy` (B, H, W, 3) uint8 in the work's folder, for the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Draw = Callable[[int], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is drawn: `batch` pictures of one prompt, of seeds 0 … batch - 1, in one call."""

    model: str
    prompt: str
    steps: int
    guidance_scale: float
    batch: int
    height: int
    width: int
    folder: str

    def to_json(self) -> dict[str, Any]:
        """Settings of a maker."""
        return asdict(self)

    def place(self, name: str) -> Path:
        """Where the pictures of the drawer of this name lie."""
        return Path(self.folder) / f"{name.replace(' ', '-').replace('/', '-')}.npy"


def keep(work: Work, name: str, images: Sequence[Any]) -> None:
    """Leave the pictures for the comparison, once."""
    import numpy as np

    place = work.place(name)
    if not place.exists():
        np.save(place, np.stack([np.asarray(image) for image in images]))


def ours(
    *,
    name: str,
    work: Mapping[str, Any],
    dtype: str = "float32",
    device: str = "cpu",
    backend: Any = "torch",
    **fields: Any,
) -> Draw:
    """`TextToImagePipeline`; fields: further ones of the call, for approximate methods."""
    import torch

    from latentdiff.pipelines import TextToImagePipeline

    asked = Work(**work)
    pipeline = TextToImagePipeline.from_pretrained(
        asked.model, dtype=getattr(torch, dtype), device=device, backend=backend
    )

    def draw(number: int) -> Mapping[str, Any]:
        drawn = pipeline(
            asked.prompt,
            seeds=range(asked.batch),
            num_images_per_prompt=asked.batch,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            height=asked.height,
            width=asked.width,
            **fields,
        )
        keep(asked, name, drawn.images)
        return {}

    return draw


def diffusers(
    *,
    name: str,
    work: Mapping[str, Any],
    dtype: str = "float32",
    device: str = "cpu",
    tuned: bool = False,
) -> Draw:
    """`StableDiffusionPipeline` as its documentation calls it; tuned: as it advises for speed,
    with channels last, fused projections and a compiled U-Net."""
    import torch
    from diffusers import StableDiffusionPipeline

    asked = Work(**work)
    pipeline = StableDiffusionPipeline.from_pretrained(
        asked.model, torch_dtype=getattr(torch, dtype)
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    if tuned:
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
        pipeline.fuse_qkv_projections()
        pipeline.unet = torch.compile(pipeline.unet)

    return drawing_by(pipeline, asked, name)


def drawing_by(pipeline: Any, work: Work, name: str) -> Draw:
    """The work drawn by a pipeline of diffusers'."""
    import torch

    def draw(number: int) -> Mapping[str, Any]:
        images = pipeline(
            work.prompt,
            num_images_per_prompt=work.batch,
            num_inference_steps=work.steps,
            guidance_scale=work.guidance_scale,
            height=work.height,
            width=work.width,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(work.batch)],
        ).images
        keep(work, name, images)
        return {}

    return draw
