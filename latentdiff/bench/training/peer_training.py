"""The peer of `bench train`: the steps of diffusers' public text-to-image example.

examples/text_to_image/train_text_to_image.py of diffusers 0.42, read on 2026-11-25, without its
command line: pictures through `datasets` and a DataLoader, autoencoder and text encoder asked again
for every batch, `DDPMScheduler.add_noise`, MSE, gradient clipping, AdamW, a schedule of the rate,
`EMAModel`, and losses gathered by accelerate at every step. Its transforms are torchvision's; the
same three (resize, centre crop, normalise) are written with PIL here, since torchvision need not be
installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional

from latentdiff.bench.training.training_work import TrainingWork


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What is random in a step, where it is not left to torch: all (B, C, h, w), t (B,)."""

    posterior: Tensor
    eps: Tensor
    t: Tensor


class PeerTraining:
    """The example's objects, and its loop's body as `step`.

    cached: latents and contexts are made once, in the first pass over the data, and kept: what a
    user gains who changes the example so.
    """

    def __init__(self, work: TrainingWork, *, cached: bool = False) -> None:
        self.work, self.cached = work, cached
        self.accelerator = Accelerator(
            mixed_precision=work.mixed_precision, cpu=work.device == "cpu"
        )
        pipeline = StableDiffusionPipeline.from_pretrained(work.model)
        self.tokenizer, self.text_encoder = pipeline.tokenizer, pipeline.text_encoder
        self.vae: AutoencoderKL = pipeline.vae
        self.unet: UNet2DConditionModel = pipeline.unet
        self.noise_scheduler = DDPMScheduler.from_pretrained(work.model, subfolder="scheduler")
        self.frozen_dtype = torch.bfloat16 if work.mixed_precision == "bf16" else torch.float32
        for frozen in (self.vae, self.text_encoder):
            frozen.requires_grad_(False)
            frozen.to(self.accelerator.device, dtype=self.frozen_dtype)
        self.ema = EMAModel(
            self.unet.parameters(),
            model_cls=UNet2DConditionModel,
            model_config=self.unet.config,
            decay=work.ema_decay,
        )
        self.ema.to(self.accelerator.device)
        optimizer = torch.optim.AdamW(
            self.unet.parameters(),
            lr=work.learning_rate,
            betas=work.betas,
            weight_decay=work.weight_decay,
            eps=1e-8,
        )
        rate = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=work.warmup_steps)
        self.model, self.optimizer, self.loader, self.rate = self.accelerator.prepare(
            self.unet, optimizer, _loader(work, self.tokenizer), rate
        )
        self.model.train()
        self._batches = self._endless()
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def _endless(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from self.loader

    def step(self, batch: dict[str, Tensor] | None = None, draws: Draws | None = None) -> float:
        """One update; the loss. batch, draws: given where a test shares them with another loop."""
        batch = next(self._batches) if batch is None else batch
        with self.accelerator.accumulate(self.model):
            latents, context = self._encoded(batch, draws)
            noise = torch.randn_like(latents) if draws is None else draws.eps
            steps = self.noise_scheduler.config.num_train_timesteps
            drawn = torch.randint(0, steps, (len(latents),), device=latents.device)
            t = (drawn if draws is None else draws.t).long()
            noisy = self.noise_scheduler.add_noise(latents, noise, t)
            kind = self.noise_scheduler.config.prediction_type
            target = noise
            if kind == "v_prediction":
                target = self.noise_scheduler.get_velocity(latents, noise, t)
            prediction = self.model(noisy, t, context, return_dict=False)[0]
            loss = functional.mse_loss(prediction.float(), target.float(), reduction="mean")
            average = self.accelerator.gather(loss.repeat(len(latents))).mean()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.work.grad_clip)
            self.optimizer.step()
            self.rate.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            self.ema.step(self.unet.parameters())
        return float(average.item())

    def fill(self) -> None:
        """Encode all pictures and captions once, where they are kept."""
        for batch in self.loader:
            self._encoded(batch, None)

    def _encoded(self, batch: dict[str, Tensor], draws: Draws | None) -> tuple[Tensor, Tensor]:
        """Scaled latents (B, C, h, w) and context (B, L, D)."""
        if not self.cached:
            return self._encode(batch, draws)
        rows = [int(row) for row in batch["row"]]
        new = [k for k, row in enumerate(rows) if row not in self._kept]
        if new:
            found = self._encode({name: value[new] for name, value in batch.items()}, draws)
            for place, latents, context in zip(new, *found, strict=True):
                self._kept[rows[place]] = (latents, context)
        latents, contexts = zip(*(self._kept[row] for row in rows), strict=True)
        return torch.stack(latents), torch.stack(contexts)

    @torch.no_grad()
    def _encode(self, batch: dict[str, Tensor], draws: Draws | None) -> tuple[Tensor, Tensor]:
        found = self.vae.encode(batch["pixel_values"].to(self.frozen_dtype)).latent_dist
        latents = found.sample() if draws is None else found.mean + found.std * draws.posterior
        context = self.text_encoder(batch["input_ids"], return_dict=False)[0]
        return latents * self.vae.config.scaling_factor, context


def _loader(work: TrainingWork, tokenizer: Any) -> torch.utils.data.DataLoader[Any]:
    """The example's data set and loader, in this process as its default is."""
    from datasets import load_dataset

    table = load_dataset("imagefolder", data_dir=work.data, split="train")

    def transformed(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        words = tokenizer(
            list(rows["text"]),
            max_length=tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        pictures = [pixels(image, work.size) for image in rows["image"]]
        return {"pixel_values": pictures, "input_ids": list(words.input_ids)}

    rows = table.with_transform(transformed)

    def collate(found: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {
            "pixel_values": torch.stack([one["pixel_values"] for one in found]).contiguous(),
            "input_ids": torch.stack([one["input_ids"] for one in found]),
            "row": torch.tensor([one["row"] for one in found]),
        }

    numbered = [*range(len(rows))]
    return torch.utils.data.DataLoader(
        _Numbered(rows, numbered), shuffle=True, collate_fn=collate, batch_size=work.batch_size
    )


class _Numbered(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows, each with its number, by which a cache knows it."""

    def __init__(self, rows: Any, numbers: list[int]) -> None:
        self.rows, self.numbers = rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, k: int) -> dict[str, Any]:
        return {**self.rows[k], "row": self.numbers[k]}


def pixels(image: Any, size: int) -> Tensor:
    """(3, size, size) float32 in [-1, 1] of a PIL picture: resize, centre crop, normalise."""
    from PIL.Image import Resampling

    shorter = min(image.size)
    if shorter != size:
        wide, high = (round(side * size / shorter) for side in image.size)
        image = image.resize((wide, high), Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    cut = image.convert("RGB").crop((left, top, left + size, top + size))
    array = torch.from_numpy(np.asarray(cut, np.float32) / 255.0).permute(2, 0, 1)
    return (array - 0.5) / 0.5
