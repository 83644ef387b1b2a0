"""CLIP score: the cosine between a picture's and its prompt's embeddings, times 100.

CLIPScore (Hessel et al. 2021, equation 1) is 2.5·max(cos, 0); here, as most tools print it, it is
100·max(cos, 0). It is a second opinion only: this CLIP's text tower also conditions the generator,
so its scores compare columns of one table and say nothing between models with other towers.

The towers come from two folders of a model: `text_encoder/`, and `clip_vision/`, which is a
transformers `CLIPVisionModelWithProjection` plus `text_projection.safetensors`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.evaluation.judge_network import batches, to_array
from latentdiff.evaluation.saved_weights import quiet_loading
from latentdiff.pixels import to_pixels

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTextModel, CLIPVisionModelWithProjection

FOLDER = "clip_vision"
TEXT_PROJECTION = "text_projection.safetensors"
Tokenize = Callable[[Sequence[str]], Tensor]
"""Prompts to input_ids (B, L)."""


class ClipScorer:
    """Scores pictures against prompts. Pictures are resized to the vision tower's own size."""

    def __init__(
        self,
        vision: CLIPVisionModelWithProjection,
        text_projection: Tensor,
        text_encoder: CLIPTextModel,
        tokenize: Tokenize,
    ) -> None:
        """text_projection: (P, D), from the text encoder's pooled output to the shared space."""
        self.vision = vision
        self.text_projection = text_projection
        self.text_encoder = text_encoder
        self.tokenize = tokenize

    @torch.inference_mode()
    def embed_pictures(self, pictures: Sequence[Image.Image | NDArray[np.uint8]]) -> Tensor:
        """Unit embeddings (N, P) float32. The towers were trained on pixels in [-1, 1]."""
        size = self.vision.config.image_size
        assert isinstance(size, int), f"a square picture size was expected, found {size}"
        stack = np.stack([to_array(picture, size) for picture in pictures])
        embedded = self.vision(pixel_values=to_pixels(stack).contiguous()).image_embeds
        return torch.nn.functional.normalize(embedded.float(), dim=-1)

    @torch.inference_mode()
    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings (N, P) float32."""
        input_ids = self.tokenize(prompts).to(self.text_encoder.device)
        pooled = self.text_encoder(input_ids).pooler_output.float().cpu()
        return torch.nn.functional.normalize(pooled @ self.text_projection.T, dim=-1)

    def scores(
        self,
        pictures: Iterable[Image.Image | NDArray[np.uint8]],
        prompts: Sequence[str],
        batch_size: int = 64,
    ) -> NDArray[np.float32]:
        """100·max(cos, 0) of each picture with the prompt at its place: (N,)."""
        image = torch.cat([self.embed_pictures(batch) for batch in batches(pictures, batch_size)])
        text = torch.cat([self.embed_prompts(batch) for batch in batches(prompts, batch_size)])
        if len(image) != len(text):
            raise ValueError(f"{len(image)} pictures for {len(text)} prompts")
        found: NDArray[np.float32] = (100.0 * (image * text).sum(dim=-1).clamp(min=0)).numpy()
        return found


def save_vision(clip: CLIPModel, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a CLIP model's vision tower and both projections into `folder` (see `load`)."""
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    config = clip.config.vision_config
    assert isinstance(config, CLIPVisionConfig)
    vision = CLIPVisionModelWithProjection(copy.deepcopy(config))
    state = clip.state_dict()
    vision.load_state_dict({name: state[name] for name in vision.state_dict()}, strict=True)
    kept = torch.float32 if dtype is None else dtype
    for parameter in vision.parameters():
        parameter.data = parameter.data.to(kept)
    vision.save_pretrained(root)
    projection = clip.text_projection.weight.detach().to("cpu", kept).contiguous()
    save_file({"weight": projection}, str(root / TEXT_PROJECTION), metadata={"format": "pt"})


def load(folder: str | Path, text_encoder: CLIPTextModel, tokenize: Tokenize) -> ClipScorer:
    """Read what `save_vision` wrote, float32 on the CPU.

    Raises UserError when the folder or a file of it is missing, when weights do not fit, or when
    the projection does not fit the text encoder.
    """
    from safetensors.torch import load_file
    from transformers import CLIPVisionModelWithProjection

    root = Path(folder)
    for name in ("config.json", "model.safetensors", TEXT_PROJECTION):
        if not (root / name).is_file():
            raise UserError(
                f"no CLIP vision tower in {root}: {name} is missing; "
                "`--no-clip` measures without CLIP scores"
            )
    with quiet_loading():
        found: Any = CLIPVisionModelWithProjection.from_pretrained(
            root, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    vision, info = found
    wrong = sorted([*info["missing_keys"], *info["unexpected_keys"]])
    if wrong:
        raise UserError(f"{root}: the weights do not fit its config.json ({wrong[0]})")
    projection = load_file(str(root / TEXT_PROJECTION))["weight"].float()
    width, shared = int(text_encoder.config.hidden_size), int(vision.config.projection_dim)
    if tuple(projection.shape) != (shared, width):
        raise UserError(
            f"{root / TEXT_PROJECTION} is {tuple(projection.shape)}; the text encoder beside it "
            f"needs ({shared}, {width})"
        )
    return ClipScorer(vision.eval(), projection, text_encoder, tokenize)
