"""Pictures as features (N, D): by the embedded CLIP's image tower, or any vision model of
transformers, by folder or hub id (CLIP, SigLIP, DINOv2, ViT …)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff import files
from latentdiff.errors import UserError
from latentdiff.evaluation import clip_score
from latentdiff.evaluation.judge_network import to_array
from latentdiff.evaluation.saved_weights import quiet_loading
from latentdiff.files import hub
from latentdiff.models import model_folder
from latentdiff.pixels import to_pixels

OWN = "snowglobe"
"""The embedded model's CLIP image tower: what is used where nothing else is named."""
_WEIGHTS = "model.safetensors"
_PROCESSOR = "preprocessor_config.json"
Pictures = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class VisionFeatures:
    """A network that turns pictures into features. digest: SHA-256 of its weights.

    is_clip: its features are CLIP embeddings, for which CMMD was made.
    """

    name: str
    digest: str
    is_clip: bool
    run: Callable[[Pictures], Tensor]

    @torch.inference_mode()
    def embed(self, pictures: Pictures) -> NDArray[np.float32]:
        """uint8 (H, W, 3) pictures of any size → (N, D) float32."""
        found: NDArray[np.float32] = self.run(pictures).float().cpu().numpy()
        return found


def load(name: str | Path | None = None) -> VisionFeatures:
    """The embedded CLIP's image tower (None or "snowglobe"), or a transformers model.

    name: a folder with config.json, model.safetensors and preprocessor_config.json, or the hub id
    of one. Raises UserError for what is missing or is no vision model.
    """
    if name in (None, OWN):
        folder = model_folder.resolve(OWN).path / clip_score.FOLDER
        return _own(folder)
    folder = Path(name).expanduser() if name is not None else Path()
    if not folder.is_dir():
        wanted = hub.parse(str(name))
        if wanted is None:
            raise UserError(
                f"no folder {folder}; features need a folder of a transformers vision model, a "
                "hub id such as facebook/dinov2-small, or snowglobe"
            )
        folder = hub.fetch(wanted, _needed).folder
    return _foreign(str(name), folder)


def _needed(names: Sequence[str]) -> list[str]:
    wanted = [n for n in ("config.json", _WEIGHTS, _PROCESSOR) if n in names]
    if _WEIGHTS not in wanted:
        raise UserError(f"this repository holds no {_WEIGHTS}; features are read from safetensors")
    return wanted


def _own(folder: Path) -> VisionFeatures:
    from transformers import CLIPVisionModelWithProjection

    with quiet_loading():
        tower: Any = CLIPVisionModelWithProjection.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        ).eval()
    size = int(tower.config.image_size)

    def run(pictures: Pictures) -> Tensor:
        # As it was trained: the whole picture, in [-1, 1].
        stack = np.stack([to_array(picture, size) for picture in pictures])
        embeds: Tensor = tower(pixel_values=to_pixels(stack).contiguous()).image_embeds
        # Training compared directions alone. Length √D: x·y/D, which KID's kernel takes, is cos.
        return torch.nn.functional.normalize(embeds, dim=-1) * embeds.shape[1] ** 0.5

    digest = f"{files.sha256_file(folder / _WEIGHTS)}, unit"
    return VisionFeatures(name="snowglobe's CLIP", digest=digest, is_clip=True, run=run)


def _foreign(name: str, folder: Path) -> VisionFeatures:
    from transformers import AutoImageProcessor, AutoModel

    for needed in ("config.json", _WEIGHTS, _PROCESSOR):
        if not (folder / needed).is_file():
            raise UserError(f"no vision model in {folder}: {needed} is missing")
    try:
        with quiet_loading():
            processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            ).eval()
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = str(error).strip() or repr(error)
        raise UserError(f"{folder} is no vision model ({said.splitlines()[0]})") from error

    def run(pictures: Pictures) -> Tensor:
        inputs = processor(list(pictures), return_tensors="pt")
        if hasattr(model, "get_image_features"):
            return _tensor(model.get_image_features(pixel_values=inputs["pixel_values"]))
        return _tensor(model(pixel_values=inputs["pixel_values"]))

    digest = files.sha256_file(folder / _WEIGHTS)
    is_clip = hasattr(model, "get_image_features")
    return VisionFeatures(name=name, digest=digest, is_clip=is_clip, run=run)


def _tensor(out: Any) -> Tensor:
    """(N, D): the image embedding, else the pooled output, else the mean over places."""
    if isinstance(out, Tensor):
        return out
    for field in ("image_embeds", "pooler_output"):
        found = getattr(out, field, None)
        if found is not None:
            pooled: Tensor = found.flatten(1)
            return pooled
    mean: Tensor = out.last_hidden_state.mean(dim=1)
    return mean
