"""What the measurements share: the model to be measured, its judge, its CLIP towers, renders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.evaluation.clip_score import ClipScorer
    from latentdiff.evaluation.judge_network import Judge
    from latentdiff.evaluation.protocol import Item
    from latentdiff.pipelines.text_to_image import TextToImagePipeline

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model under measurement: its pipeline, where it lies, what it computes in."""

    pipeline: TextToImagePipeline
    folder: Path | None
    dtype_name: str
    hashes: dict[str, str]

    @property
    def bundle(self) -> Any:
        """The model's parts."""
        return self.pipeline.bundle


def choose_device(name: str) -> str:
    """ "auto" as "cuda" when there is a GPU and "cpu" otherwise; any other name as it is."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(name: str, device: str) -> torch.dtype:
    """ "auto" as bfloat16 where the hardware multiplies it, float32 elsewhere."""
    if name != "auto":
        return DTYPES[name]
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def load(model: str, dtype: str, device: str, loras: Sequence[str] = ()) -> Loaded:
    """Open the model to be measured. loras: FILE or FILE:scale, added to its weights."""
    from latentdiff.cli.generate import add_loras, read_loras
    from latentdiff.pipelines.text_to_image import TextToImagePipeline

    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    pipeline = TextToImagePipeline.from_pretrained(model, dtype=kind, device=where)
    if where == "cpu" and kind == torch.bfloat16:
        # Several times faster in this layout; the numbers are the same up to rounding.
        for part in (pipeline.bundle.unet, pipeline.bundle.vae):
            part.to(memory_format=torch.channels_last)
    add_loras(pipeline, read_loras(loras))
    source = Path(str(pipeline.bundle.source))
    return Loaded(
        pipeline=pipeline,
        folder=source if source.is_dir() else None,
        dtype_name=str(kind).removeprefix("torch."),
        hashes=dict(pipeline.bundle.hashes),
    )


def load_judge(named: Path | None, model: Path | None) -> Judge:
    """The judge from the folder named, or from the model's own `judge/`."""
    from latentdiff.evaluation import judge_network as judge

    if named is None and model is None:
        raise UserError("this model is not a local folder and brings no judge; name one: --judge")
    folder = named if named is not None or model is None else model / "judge"
    assert folder is not None
    return judge.load(folder)


def load_clip(loaded: Loaded) -> ClipScorer:
    """The model's CLIP towers: its own text encoder, and `clip_vision/`."""
    from latentdiff.conditioning.text import tokenize
    from latentdiff.evaluation import clip_score

    if loaded.folder is None:
        raise UserError("this model is not a local folder; `--no-clip` measures without CLIP")
    bundle = loaded.bundle
    return clip_score.load(
        loaded.folder / clip_score.FOLDER,
        bundle.text_encoder,
        lambda prompts: tokenize(bundle.tokenizer, prompts).input_ids,
    )


def draw(
    pipeline: TextToImagePipeline,
    chosen: Sequence[Item],
    *,
    steps: int | None,
    guidance_scale: float | None,
    scheduler: str,
    batch_size: int,
) -> Iterator[NDArray[np.uint8]]:
    """The generator's pictures, in the items' order, H W 3 uint8; a bar shows the rate.

    None for steps or guidance leaves the model its own default.
    """
    from tqdm import tqdm

    given = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    arguments: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    with tqdm(total=len(chosen), unit="picture", disable=None) as bar:
        for first in range(0, len(chosen), batch_size):
            batch = chosen[first : first + batch_size]
            made = pipeline(
                [item.prompt for item in batch],
                seeds=[item.seed for item in batch],
                scheduler=scheduler,
                **arguments,
            )
            yield from (np.asarray(image.convert("RGB")) for image in made.images)
            bar.update(len(batch))


def renders(chosen: Sequence[Item]) -> list[NDArray[np.uint8]]:
    """The world's own pictures of the items, 128 px: what a perfect generator could draw."""
    from latentdiff.evaluation.protocol import EVALUATION_WORLD_SEED
    from latentdiff.scenes.catalog import SUBJECTS
    from latentdiff.scenes.world import World

    world = World(EVALUATION_WORLD_SEED, subjects=tuple(SUBJECTS), hold_out_pairs=False)
    return [
        world.compose(item.subjects, item.setting, item.index, relation=item.relation).image
        for item in chosen
    ]


@torch.inference_mode()
def reconstruct(
    loaded: Loaded, pictures: Iterable[NDArray[np.uint8]], batch_size: int = 16
) -> list[NDArray[np.uint8]]:
    """Pictures through the autoencoder and back, by the posterior's mode, in its own precision."""
    from latentdiff.evaluation.judge_network import batches, to_pixels
    from latentdiff.models.autoencoder import Autoencoder

    autoencoder = Autoencoder(loaded.bundle.vae)
    restored: list[NDArray[np.uint8]] = []
    for batch in batches(pictures, batch_size):
        pixels = to_pixels(np.stack(batch)).to(autoencoder.device, autoencoder.dtype)
        latents = autoencoder.mode(autoencoder.encode_moments(pixels))
        decoded = autoencoder.decode(latents).float().clamp(-1, 1)
        levels = ((decoded + 1) * 127.5).round().to(torch.uint8)
        restored += list(levels.permute(0, 2, 3, 1).cpu().numpy())
    return restored
