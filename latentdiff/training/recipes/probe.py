"""How fast a task trains at some batch sizes and compile modes, on random data.

The update is the loop's: autocast, guarded clip and fused AdamW, averaged weights. Data loading is
left out, so the rate is what the device can do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentdiff.diffusion.objective import Noising
from latentdiff.models.presets import build_clip, build_unet, get
from latentdiff.training.frozen import Frozen, still
from latentdiff.training.optimizers.ema import AveragedWeights
from latentdiff.training.optimizers.guarded_step import GuardedStep, build_optimizer
from latentdiff.training.run.batches import to_device
from latentdiff.training.run.live_parts import to_channels_last
from latentdiff.training.run.processes import start
from latentdiff.training.tasks.clip_task import ClipModule
from latentdiff.training.tasks.text_to_image import TextToImageConfig, UNetModule
from latentdiff.training.tasks.vae_task import VaeConfig, VaeModule
from latentdiff.training.train_config import TrainConfig

VOCABULARY = 1287
"""Tokens of the embedded model's tokenizer; only a shape here."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Steady rate, the seconds until the first steps were done (compiling), and peak memory."""

    samples_per_second: float
    first_seconds: float
    gibibytes: float


def build(task: str, config: VaeConfig | TextToImageConfig | object, model: str) -> nn.Module:
    """A fresh module of the task, its frozen parts random."""
    if isinstance(config, VaeConfig):
        return VaeModule(config)
    clip = build_clip(model, VOCABULARY, bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1)
    if isinstance(config, TextToImageConfig):
        still(clip)
        schedule = config.schedule()
        frozen = Frozen(_TextTower(clip.text_model), nn.Identity(), schedule)
        noising = Noising(schedule, prediction_type=config.prediction_type or "epsilon")
        return UNetModule(build_unet(model), noising, frozen)
    assert task == "clip", task
    return ClipModule(clip)


class _TextTower(nn.Module):
    """`encode` asks a text encoder for its device."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    @property
    def device(self) -> torch.device:
        return next(self.tower.parameters()).device

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.tower(input_ids=input_ids)


def random_batch(task: str, model: str, size: int, crop: int) -> dict[str, Tensor]:
    """A batch as the task would make it, of random content."""
    p = get(model)
    latents = (size, p.latent_channels, p.latent_size, p.latent_size)
    side = crop if task == "vae" else p.picture_size
    images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8)
    input_ids = torch.full((size, p.max_length), VOCABULARY - 1)
    input_ids[:, 1:8] = torch.randint(0, VOCABULARY - 2, (size, 7))
    if task == "vae":
        cells = side // p.factor
        return {
            "images": images,
            "noise": torch.randn(size, p.latent_channels, cells, cells),
            "boxes": torch.tensor([8, 8, 56, 56], dtype=torch.int16).expand(size, 2, 4).clone(),
        }
    if task == "clip":
        return {"images": images, "input_ids": input_ids, "group": torch.arange(size)}
    return {
        "x_t": torch.randn(latents),
        "target": torch.randn(latents),
        "t": torch.randint(0, 1000, (size,)),
        "weight": torch.ones(size),
        "input_ids": input_ids,
    }


def measure(
    task: str, config: object, model: str, train: TrainConfig, *, steps: int, crop: int = 128
) -> Rate:
    """Train `steps` updates after five that are not counted."""
    processes = start(train)
    device = processes.device
    torch.manual_seed(0)
    module: nn.Module = build(task, config, model).to(device).train()
    if train.channels_last:
        to_channels_last(module)
    if isinstance(module, UNetModule):
        module.frozen.to(device)
    averaged = AveragedWeights(module, train.ema_decay)
    optimizer = build_optimizer(
        module,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        betas=train.betas,
    )
    guard = GuardedStep(optimizer, module, grad_clip=train.grad_clip)
    if train.compile:
        module.compile(mode=train.compile, dynamic=False)
    cpu = random_batch(task, model, train.batch_size, crop)
    if device.type == "cuda":
        cpu = {name: x.pin_memory() for name, x in cpu.items()}
        torch.cuda.reset_peak_memory_stats()

    def update(step: int) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        batch = to_device(cpu, device, channels_last=train.channels_last)
        with processes.autocast():
            loss = module(batch)["loss"]
        loss.backward()
        guard(loss.detach(), step, 1e-5)
        averaged.update(step + 1)

    began = time.monotonic()
    for step in range(5):
        update(step)
    _wait(device)
    first = time.monotonic() - began
    began = time.monotonic()
    for step in range(steps):
        update(step + 5)
    _wait(device)
    seconds = time.monotonic() - began
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return Rate(
        samples_per_second=train.batch_size * steps / seconds,
        first_seconds=first,
        gibibytes=memory,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
