"""A model under measurement: its pipeline, and the judge and CLIP towers that its folder brings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from latentdiff.conditioning.text import tokenize
from latentdiff.errors import UserError
from latentdiff.evaluation import clip_score, judge_network
from latentdiff.evaluation.clip_score import ClipScorer
from latentdiff.evaluation.judge_network import Judge
from latentdiff.pipelines.text_to_image import TextToImagePipeline
from latentdiff.scenes.catalog import find_subject

JUDGE_FOLDER = "judge"


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """A pipeline with the name that tables print for it."""

    pipeline: TextToImagePipeline
    name: str

    def __post_init__(self) -> None:
        unet, vae = self.pipeline.bundle.unet, self.pipeline.bundle.vae
        if unet.device.type == "cpu" and unet.dtype == torch.bfloat16:
            # Several times faster in this layout; the numbers are the same up to rounding.
            for part in (unet, vae):
                part.to(memory_format=torch.channels_last)

    @property
    def folder(self) -> Path | None:
        """Where the model lies; None for one in memory."""
        source = Path(str(self.pipeline.bundle.source))
        return source if self.pipeline.bundle.source and source.is_dir() else None

    @property
    def dtype_name(self) -> str:
        """Number type of the U-Net, such as "float32"."""
        return str(self.pipeline.bundle.unet.dtype).removeprefix("torch.")

    @property
    def hashes(self) -> Mapping[str, str]:
        """Part → SHA-256 of its weights, and those of learned words."""
        bundle = self.pipeline.bundle
        words = {f"embedding {word['token']}": word["sha256"] for word in bundle.embeddings}
        return {**bundle.hashes, **words}

    @cached_property
    def digests(self) -> dict[str, str]:
        """Part → SHA-256 of its weights as they are now, LoRAs included, also for one in memory."""
        bundle = self.pipeline.bundle
        parts = {"unet": bundle.unet, "vae": bundle.vae, "text_encoder": bundle.text_encoder}
        return {name: digest_of(part) for name, part in parts.items()}

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Keys of the world's subjects that it draws, by its card; none where it does not say."""
        return tuple(
            find_subject(name).key for name in self.pipeline.bundle.card.get("subjects", ())
        )

    def load_judge(self, folder: Path | None = None) -> Judge:
        """The judge from the folder named, or from the model's own; UserError without one."""
        if folder is None and self.folder is None:
            raise UserError(
                "this model is not a local folder and brings no judge; name one: --judge"
            )
        return judge_network.load(folder or (self.folder or Path()) / JUDGE_FOLDER)

    def load_clip(self) -> ClipScorer:
        """The model's CLIP towers: its own text encoder, and `clip_vision/`."""
        if self.folder is None:
            raise UserError("this model is not a local folder; `--no-clip` measures without CLIP")
        bundle = self.pipeline.bundle
        return clip_score.load(
            self.folder / clip_score.FOLDER,
            bundle.text_encoder,
            lambda prompts: tokenize(bundle.tokenizer, prompts).input_ids,
        )


def both_draw(first: MeasuredModel, second: MeasuredModel) -> tuple[str, ...]:
    """Subjects that both draw, by their cards; those of one where the other does not say."""
    if not first.subjects or not second.subjects:
        return first.subjects or second.subjects
    both = tuple(key for key in first.subjects if key in second.subjects)
    if not both:
        raise UserError(f"{first.name} and {second.name} draw no subject in common")
    return both


@torch.no_grad()
def digest_of(module: nn.Module) -> str:
    """SHA-256 of a network's weights."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
