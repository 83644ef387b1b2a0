"""What all trials learn from: latents of small scenes by a model's autoencoder, with contexts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import latentdiff.pipelines.walk.prompting as prompting
from latentdiff.errors import UserError
from latentdiff.measure.drawing import Drawing
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.results.store import ResultStore
from latentdiff.pipelines.walk.batch import batches
from latentdiff.pixels import to_pictures, to_pixels
from latentdiff.scenes.captions import prompt
from latentdiff.scenes.world import World

SUBJECTS = (
    *("cat", "dog", "penguin", "fox", "octopus", "robot", "rocket", "red-car"),
    *("castle", "owl", "snowman", "tiger", "elephant", "bicycle", "butterfly", "ghost"),
)
SETTINGS = ("snow", "forest", "night", "beach")
SIDE = 16
"""Of the latents: small enough to learn from in a minute, large enough to show a subject."""
_WORLD_SEED, _PART = 770_031, 32


@dataclass(frozen=True, kw_only=True)
class TrialData:
    """latents: (N, C, 16, 16) about unit variance; subject, setting: (N,) indices; contexts:
    (S, P, L, D) of the canonical prompt of each pair; pictures: (N, H, W, 3); key: of all this."""

    latents: Tensor
    subject: NDArray[np.int64]
    setting: NDArray[np.int64]
    contexts: Tensor
    pictures: NDArray[np.uint8]
    key: dict[str, Any]

    def context(self, rows: NDArray[np.int64]) -> Tensor:
        """(B, L, D) of rows."""
        return self.contexts[
            torch.from_numpy(self.subject[rows]), torch.from_numpy(self.setting[rows])
        ]


@torch.inference_mode()
def trial_data(model: MeasuredModel, count: int, store: ResultStore) -> TrialData:
    """`count` single scenes of 16 subjects in 4 settings, encoded by the model's autoencoder."""
    if count < 64:
        raise UserError(f"scenes is {count}, expected at least 64")
    autoencoder = model.pipeline.autoencoder
    size = SIDE * autoencoder.factor
    world = World(
        _WORLD_SEED, size=size, subjects=SUBJECTS, settings=SETTINGS, hold_out_pairs=False
    )
    shared = {
        "kind": "trial latents",
        "world": _WORLD_SEED,
        "size": size,
        "weights": model.digests["vae"],
    }
    found = []
    for first in range(0, count, _PART):
        rows = range(first, min(first + _PART, count))
        key = {**shared, "first": first, "count": len(rows)}
        part = store.get(key)
        if part is None:
            part = _encoded(model, world, rows)
            store.put(key, part)
        found.append(part)
    joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    return TrialData(
        latents=torch.from_numpy(joined["latents"]),
        subject=joined["subject"],
        setting=joined["setting"],
        contexts=_contexts(model),
        pictures=joined["pictures"],
        key={**shared, "count": count, "text": model.digests["text_encoder"]},
    )


def _encoded(model: MeasuredModel, world: World, rows: range) -> dict[str, NDArray[Any]]:
    autoencoder = model.pipeline.autoencoder
    subject = np.array([row % len(SUBJECTS) for row in rows])
    setting = np.array([row // len(SUBJECTS) % len(SETTINGS) for row in rows])
    scenes = [
        world.compose((SUBJECTS[s],), SETTINGS[p], row).image
        for s, p, row in zip(subject, setting, rows, strict=True)
    ]
    pictures = np.stack(scenes)
    pixels = to_pixels(pictures).contiguous().to(autoencoder.device, autoencoder.dtype)
    latents = autoencoder.mode(autoencoder.encode_moments(pixels)).float().cpu().numpy()
    return {"latents": latents, "subject": subject, "setting": setting, "pictures": pictures}


def _contexts(model: MeasuredModel) -> Tensor:
    bare = dataclasses.replace(Drawing().request, guidance_scale=1.0)
    requests = [
        dataclasses.replace(bare, prompt=prompt((s,), p), seed=0)
        for s in SUBJECTS
        for p in SETTINGS
    ]
    (batch,) = batches(model.pipeline.resolve(requests), len(requests))
    context, _ = prompting.fixed_context(model.pipeline.bundle, batch)
    return context.float().cpu().reshape(len(SUBJECTS), len(SETTINGS), *context.shape[1:])


@torch.inference_mode()
def decoded(model: MeasuredModel, latents: Tensor) -> NDArray[np.uint8]:
    """Pictures (N, H, W, 3) of latents."""
    autoencoder = model.pipeline.autoencoder
    parts: Sequence[NDArray[np.uint8]] = [
        to_pictures(autoencoder.decode(part.to(autoencoder.device, autoencoder.dtype)).float())
        for part in latents.split(_PART)
    ]
    return np.concatenate(parts)


def brightness(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean luma (BT.601) of each picture, 0 … 255: (N,)."""
    return np.asarray(pictures.astype(np.float64).mean(axis=(1, 2)) @ [0.299, 0.587, 0.114])
