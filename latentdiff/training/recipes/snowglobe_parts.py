"""What the recipe of the embedded model does besides training: encode the pool, assemble."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff import files
from latentdiff.conditioning.text import tokenize
from latentdiff.data.rendered.pixel_pool import PixelPool
from latentdiff.data.rendered.pool_latents import PoolLatents, build_pool_latents
from latentdiff.devices import find_device
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.preview import fit_preview
from latentdiff.pixels import to_pixels
from latentdiff.scenes.captions import prompt, vocabulary
from latentdiff.scenes.catalog import (
    RELATIONS,
    SETTINGS,
    SUBJECTS,
    base_subjects,
    held_out_subjects,
)
from latentdiff.training.frozen import encoder_hash, load_vae

if TYPE_CHECKING:
    from transformers import CLIPModel

    from latentdiff.models.bundle import Bundle

_PROMPTS_AT_ONCE = 256


def encode_pool(
    vae_folder: Path,
    pool_folder: Path,
    cache_folder: Path,
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> PoolLatents:
    """Posterior moments of every picture of the pool, on the accelerator when there is one."""
    pool, vae = PixelPool(pool_folder), load_vae(vae_folder)
    key = encoder_hash(vae)
    device = find_device()
    autoencoder = Autoencoder(vae.to(device, memory_format=torch.channels_last))

    @torch.no_grad()
    def encode(pictures: NDArray[np.uint8]) -> NDArray[np.floating]:
        x = to_pixels(torch.from_numpy(pictures).to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            moments = autoencoder.encode_moments(x)
        return moments.half().contiguous().cpu().numpy()

    return build_pool_latents(
        cache_folder, pool, encode, encoder_hash=key, batch_size=batch_size, progress=progress
    )


def world_facts(
    vae_folder: Path, pool: PixelPool, *, steps: int, guidance: float
) -> dict[str, Any]:
    """What `snowglobe.json` says: subjects, settings, relations, words, previews, defaults.

    pool: the scenes that the U-Net was trained on.
    """
    subjects = pool.spec.world().subjects
    vae = load_vae(vae_folder)
    autoencoder = Autoencoder(vae)
    x = to_pixels(torch.from_numpy(pool.pictures(range(min(96, len(pool))))))
    with torch.no_grad():
        latents = autoencoder.mode(autoencoder.encode_moments(x))
    return {
        "subjects": [SUBJECTS[key].name for key in subjects],
        "held_out_subjects": [SUBJECTS[key].name for key in held_out_subjects()],
        "settings": {key: setting.phrase for key, setting in SETTINGS.items()},
        "relations": list(RELATIONS),
        "vocabulary": list(vocabulary(subjects)),
        "preview": fit_preview(latents, x).to_json(),
        "num_inference_steps": steps,
        "guidance_scale": guidance,
    }


@torch.no_grad()
def text_projection(clip: CLIPModel, whole: Bundle) -> Tensor:
    """(P, D): takes the pooled states of the model's text tower nearest to CLIP's text embeddings.

    Least squares over the prompts of all pairs of a trained subject and a setting; CLIP's own
    projection where the towers are one.
    """
    texts = [prompt((subject,), setting) for subject in base_subjects() for setting in SETTINGS]
    ids = tokenize(whole.tokenizer, texts).input_ids
    tower = whole.text_encoder.float()
    pooled = torch.cat([tower(part).pooler_output for part in ids.split(_PROMPTS_AT_ONCE)])
    wanted = torch.cat([_embedded(clip, part) for part in ids.split(_PROMPTS_AT_ONCE)])
    found: Tensor = torch.linalg.lstsq(pooled.double(), wanted.double()).solution.T.float()
    return found


def _embedded(clip: CLIPModel, ids: Tensor) -> Tensor:
    """CLIP's own unit embeddings of prompts, (B, P)."""
    pooled = clip.text_model(ids).pooler_output
    return torch.nn.functional.normalize(clip.text_projection(pooled), dim=-1)


def assemble(
    folder: Path,
    *,
    unet: Path,
    clip: Path,
    pool: Path,
    judge: Path | None,
    steps: int = 25,
    guidance: float = 2.5,
) -> Path:
    """The shippable folder: a diffusers model in half precision, with judge and vision tower.

    unet: a text-to-image export (a whole model); clip: a CLIP export, whose vision tower is kept
    with a projection of the model's own text tower onto CLIP's; judge: a judge export.
    """
    from transformers import CLIPModel

    from latentdiff.evaluation.clip_score import save_vision
    from latentdiff.models import bundle as bundles

    whole = bundles.load(str(unet), dtype=torch.float16, device="cpu")
    facts = world_facts(unet, PixelPool(pool), steps=steps, guidance=guidance)
    with files.publish_folder(folder, manifest=False) as temporary:
        bundles.save(whole, temporary / "model", dtype=torch.float16)
        for part in sorted((temporary / "model").iterdir()):
            part.rename(temporary / part.name)
        (temporary / "model").rmdir()
        model = CLIPModel.from_pretrained(clip / "clip", local_files_only=True)
        with torch.no_grad():
            model.text_projection.weight.copy_(text_projection(model, whole))
        save_vision(model, temporary / "clip_vision", torch.float16)
        if judge is not None:
            shutil.copytree(judge, temporary / "judge")
        (temporary / "snowglobe.json").write_text(
            json.dumps(facts, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
    return folder
