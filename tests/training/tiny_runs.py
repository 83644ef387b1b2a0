"""Tiny real runs that note every sample they learn from: for tests of stopping and resuming."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from run_task import opened

from latentdiff.checkpoints import store as checkpoints
from latentdiff.data.rendered.pixel_pool import build_pool
from latentdiff.training.tasks import clip_task as clip
from latentdiff.training.tasks import text_to_image
from latentdiff.training.tasks import vae_task as vae
from latentdiff.training.train_config import TrainConfig

SCENES, BATCH = 12, 4
"""An epoch is three steps."""

TRAIN = TrainConfig(
    batch_size=BATCH,
    steps=20,
    learning_rate=1e-3,
    warmup_steps=3,
    ema_decay=0.9,
    log_every=7,
    validate_every=0,
    sheet_every=0,
    validate_at_start=False,
    checkpoint_minutes=0.0,
    device="cpu",
    tensorboard=False,
)


def build_parts(root: Path) -> Path:
    """A pool of scenes, an autoencoder and a CLIP of tiny size, in one folder."""
    build_pool(root / "pool", world_seed=0, count=SCENES, workers=1, size=32)
    for name, task in (
        ("vae", opened(vae.VaeTask, vae.PRESETS["tiny"])),
        ("clip", opened(clip.ClipTask, clip.PRESETS["tiny"])),
    ):
        (root / name).mkdir()
        task.export(task.module, root / name)
    return root


def text_to_image_task(parts: Path) -> text_to_image.TextToImageTask:
    """The tiny text-to-image task on those scenes, freshly built."""
    config = dataclasses.replace(
        text_to_image.PRESETS["tiny"],
        vae=parts / "vae",
        clip=parts / "clip",
        pool=parts / "pool",
        train=TRAIN,
    )
    return opened(text_to_image.TextToImageTask, config)


def noted(task: Any, note: Callable[[list[int]], None]) -> Any:
    """The same task; `note` is called with the positions of each batch that it learns from.

    What a data worker prepared and nobody used is not noted.
    """
    made = task.batch

    def batch(positions: Sequence[int]) -> dict[str, torch.Tensor]:
        return {**made(positions), "noted": torch.tensor(list(positions))}

    def before(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if module.training:
            note(arguments[0].pop("noted").tolist())

    task.batch = batch
    task.module.register_forward_pre_hook(before)
    return task


def bits(run_dir: Path, step: int) -> dict[str, bytes]:
    """Weights, averaged weights and optimizer of a checkpoint, as they lie on the disk."""
    folder = run_dir / "checkpoints" / checkpoints.folder_name(step)
    names = (checkpoints.WEIGHTS, checkpoints.EMA, checkpoints.OPTIMIZER)
    return {name: (folder / name).read_bytes() for name in names}


def log(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl."""
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text("utf-8").splitlines()]
