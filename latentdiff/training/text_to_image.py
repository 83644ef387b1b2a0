"""The text-to-image task: a U-Net learns the noise ε_θ(x_t, t, c) of latents, given a caption.

Tokenizer, text encoder and autoencoder are frozen. With a latent cache the noisy latents are made
in the data-loader workers, in float64 on the CPU, and the device sees only (x_t, t, target,
weight, tokens); without one, pictures travel and are encoded on the device.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from latentdiff import seeding
from latentdiff.conditioning import text
from latentdiff.conditioning.guidance import Guidance, GuidedDenoiser
from latentdiff.data.pictures import PoolPictures, open_pictures, row_of
from latentdiff.data.pool_latents import PoolLatents
from latentdiff.diffusion import objective
from latentdiff.diffusion.forward_process import q_sample
from latentdiff.diffusion.noise_schedule import NoiseSchedule, make_schedule
from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.denoiser import Denoiser
from latentdiff.models.presets import build_unet, get
from latentdiff.sampling import SeededNoise, denoise
from latentdiff.scenes.captions import caption, prompt
from latentdiff.scenes.sheet import contact_sheet
from latentdiff.scenes.world import World
from latentdiff.schedulers.config import SchedulerConfig
from latentdiff.schedulers.ddim import DDIM
from latentdiff.training.caption_tokens import CaptionTokens
from latentdiff.training.config import TrainConfig
from latentdiff.training.frozen import (
    Frozen,
    copy_weights,
    encoder_hash,
    load_text_encoder,
    load_vae,
)
from latentdiff.training.sheets import to_pictures, to_pixels

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

SHEET_PROMPTS = (
    "a cat in the snow",
    "a dog on the beach",
    "a penguin in the desert",
    "a robot in the city",
    "a rocket in space",
    "a fox in the forest",
    "an octopus underwater",
    "a castle at night",
)


@dataclass(frozen=True, kw_only=True)
class TextToImageConfig:
    """What the U-Net learns from, and what it is asked to predict."""

    model: str = "snowglobe"
    """Sizes of the networks: a preset of `latentdiff.models.presets`."""
    vae: Path | None = None
    """The autoencoder: an export of `train vae`, or a diffusers `vae/` folder."""
    clip: Path | None = None
    """Folder with `text_encoder/` and `tokenizer/`: an export of `train clip`, or a whole model."""
    world_seed: int = 0
    """World of the training scenes."""
    pool: Path | None = None
    """Folder of rendered scenes; without one, scenes are rendered as they are needed."""
    cache: Path | None = None
    """Latent cache of that pool; without one, pictures are encoded at every visit."""
    caption_dropout: float = 0.1
    """Share of visits that see the empty caption, for classifier-free guidance."""
    num_train_timesteps: int = 1000
    """T, the number of forward steps."""
    beta_schedule: str = "scaled_linear"
    """Name of the noise schedule."""
    beta_start: float = 0.00085
    beta_end: float = 0.020
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    """What the U-Net predicts."""
    weighting: str = "min_snr"
    """Weight of a timestep's loss: simple, min_snr, or one of the variational ones."""
    min_snr_gamma: float = 5.0
    """γ of min-SNR (Hang et al. 2023)."""
    timesteps: Literal["uniform", "stratified"] = "stratified"
    """How timesteps are drawn: independent, or spread evenly over neighbouring samples."""
    validation_pictures: int = 64
    """Unseen scenes in each validation."""
    validation_seed: int = 1_000_003
    """World of the validation scenes."""
    sheet_steps: int = 25
    """DDIM steps of the sample sheet."""
    sheet_guidance: float = 4.0
    """Guidance scale of the sample sheet."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            batch_size=32, learning_rate=6e-4, warmup_steps=500, ema_decay=0.9995
        )
    )

    def __post_init__(self) -> None:
        if not 0 <= self.caption_dropout <= 1:
            raise UserError(f"caption_dropout is {self.caption_dropout}, expected 0 … 1")
        if self.cache is not None and self.pool is None:
            raise UserError("a latent cache needs the pool that it was made from: give --pool too")
        if self.validation_seed == self.world_seed:
            raise UserError("validation_seed equals world_seed: scenes would not be unseen")

    def schedule(self) -> NoiseSchedule:
        """The forward process."""
        return make_schedule(
            self.beta_schedule, self.num_train_timesteps, self.beta_start, self.beta_end
        )

    def scheduler_config(self) -> SchedulerConfig:
        """The scheduler config that samples from this training."""
        return SchedulerConfig(
            class_name="DDIMScheduler",
            num_train_timesteps=self.num_train_timesteps,
            beta_schedule=self.beta_schedule,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            prediction_type=self.prediction_type,
            timestep_spacing="trailing",
            steps_offset=1,
            clip_sample=False,
        )


class UNetModule(nn.Module):
    """The U-Net with its loss; frozen parts are held, not owned."""

    def __init__(
        self, unet: UNet2DConditionModel, config: TextToImageConfig, frozen: Frozen
    ) -> None:
        super().__init__()
        self.unet = unet
        self.config = config
        self.frozen = frozen

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted loss and plain MSE of a batch; see `TextToImageTask.batch`."""
        batch = self.inputs(batch)
        prediction = self.unet(
            batch["x_t"], batch["t"], encoder_hidden_states=batch["context"], return_dict=False
        )[0].float()
        per_sample = (prediction - batch["target"]).square().mean(dim=(1, 2, 3))
        return {
            "loss": (batch["weight"] * per_sample).mean(),
            "mse": per_sample.detach().mean(),
        }

    @torch.compiler.disable
    @torch.no_grad()
    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """x_t, t, target, weight as they come, or made from pictures; context from tokens."""
        context = text.encode(self.frozen.text_encoder, batch["input_ids"])
        if "pictures" not in batch:
            return {**batch, "context": context}
        autoencoder = Autoencoder(self.frozen.vae)
        moments = autoencoder.encode_moments(to_pixels(batch["pictures"])).float()
        x_0 = autoencoder.sample(moments, batch["posterior"])
        made = noisy(x_0, batch["eps"], batch["t"], self.config, self.frozen.schedule)
        return {**made, "context": context}


def noisy(
    x_0: Tensor, eps: Tensor, t: Tensor, config: TextToImageConfig, schedule: NoiseSchedule
) -> dict[str, Tensor]:
    """x_t, t, target (B, C, h, w) and weight (B,) of clean latents and noise (B, C, h, w)."""
    weights = objective.loss_weights(
        schedule,
        prediction_type=config.prediction_type,
        weighting=config.weighting,
        gamma=config.min_snr_gamma,
    )
    x_t = q_sample(x_0, t, eps, schedule)
    return {
        "x_t": x_t,
        "t": t,
        "target": objective.target(
            x_0, x_t, eps, t, schedule, prediction_type=config.prediction_type
        ),
        "weight": schedule.gather(weights, t, t).reshape(-1).float(),
    }


class TextToImageTask:
    """Trains `UNet2DConditionModel` on scenes; see `latentdiff.training.task.Task`."""

    name = "text-to-image"

    def __init__(self, config: TextToImageConfig) -> None:
        if config.vae is None or config.clip is None:
            raise UserError(
                "training text-to-image needs --vae and --clip: exports of `latentdiff train vae` "
                "and `latentdiff train clip`"
            )
        self.config = config
        self.seed = config.train.seed
        preset = get(config.model)
        self.size = preset.picture_size
        self.shape = (preset.latent_channels, preset.latent_size, preset.latent_size)
        self.schedule = config.schedule()
        self.vae = load_vae(config.vae)
        self.text_encoder, self.tokenizer = load_text_encoder(config.clip)
        self.tokens = CaptionTokens(self.tokenizer)
        self.pictures = open_pictures(
            pool=config.pool, rows=0, world_seed=config.world_seed, size=self.size
        )
        self.cache = self._open_cache()
        torch.manual_seed(seeding.integers(2**31, self.seed, "initial weights"))
        self.frozen = Frozen(self.text_encoder, self.vae, self.schedule)
        self.module = UNetModule(build_unet(config.model), config, self.frozen)
        self._unseen: dict[str, Tensor] | None = None

    def _open_cache(self) -> PoolLatents | None:
        if self.config.cache is None:
            return None
        assert isinstance(self.pictures, PoolPictures)
        cache = PoolLatents(
            self.config.cache,
            encoder_hash=encoder_hash(self.vae),
            fingerprint=self.pictures.pool.fingerprint,
        )
        channels, *size = self.shape
        if cache.shape != (2 * channels, *size):
            raise UserError(
                f"{self.config.cache} holds moments {cache.shape}, not for {self.shape}"
            )
        return cache

    def prepare(self, device: torch.device) -> None:
        """Move the frozen networks to the device."""
        self.frozen.to(device)

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """input_ids (B, L) with x_t, target (B, C, h, w), t (B,), weight (B,) from the cache;
        or with pictures (B, H, W, 3) uint8, posterior, eps (B, C, h, w) and t without one."""
        rows = [row_of(position, self.pictures.count, self.seed) for position in positions]
        input_ids = self.tokens([self._caption(r, p) for r, p in zip(rows, positions, strict=True)])
        t = self._timesteps(positions)
        eps = self._noise("eps", positions)
        posterior = self._noise("posterior", positions)
        if self.cache is None:
            pictures = torch.from_numpy(np.stack([self.pictures.picture(row) for row in rows]))
            made = {"pictures": pictures, "posterior": posterior, "eps": eps, "t": t}
        else:
            moments = torch.from_numpy(self.cache.moments(np.asarray(rows)))
            x_0 = Autoencoder(self.vae).sample(moments, posterior)
            made = noisy(x_0, eps, t, self.config, self.schedule)
        return {**made, "input_ids": input_ids}

    def _caption(self, row: int, position: int) -> str:
        """A fresh caption at every visit, or none at all."""
        draw = seeding.generator(self.seed, "caption", position)
        if draw.random() < self.config.caption_dropout:
            return ""
        return caption(self.pictures.record(row), draw)

    def _timesteps(self, positions: Sequence[int]) -> Tensor:
        u = [seeding.uniform(self.seed, "timestep", position) for position in positions]
        return objective.sample_timesteps(
            torch.tensor(u, dtype=torch.float64),
            torch.tensor(list(positions)),
            self.schedule.num_train_timesteps,
            method=self.config.timesteps,
        )

    def _noise(self, purpose: str, addresses: Sequence[int], seed: int | None = None) -> Tensor:
        out = np.empty((len(addresses), *self.shape), np.float32)
        for k, address in enumerate(addresses):
            draw = seeding.generator(self.seed if seed is None else seed, purpose, address)
            draw.standard_normal(dtype=np.float32, out=out[k])
        return torch.from_numpy(out)

    def unseen(self) -> dict[str, Tensor]:
        """A fixed validation batch of unseen scenes with canonical prompts."""
        if self._unseen is None:
            seed, count = self.config.validation_seed, self.config.validation_pictures
            world = World(seed, size=self.size)
            scenes = [world.scene(k) for k in range(count)]
            texts = [prompt(s.record.subjects, s.record.setting, s.record.relation) for s in scenes]
            T = self.schedule.num_train_timesteps
            self._unseen = {
                "pictures": torch.from_numpy(np.stack([scene.image for scene in scenes])),
                "posterior": self._noise("posterior", range(count), seed),
                "eps": self._noise("eps", range(count), seed),
                "t": (torch.arange(count) * T + T // 2) // count,
                "input_ids": self.tokens(texts),
            }
        return self._unseen

    @torch.no_grad()
    def validate(self, module: UNetModule, step: int) -> dict[str, float]:
        """Loss on unseen scenes with fixed noise; MSE also by quarter of the timesteps."""
        device = next(module.parameters()).device
        batch = {name: x.to(device) for name, x in self.unseen().items()}
        inputs = module.inputs(batch)
        prediction = module.unet(
            inputs["x_t"], inputs["t"], encoder_hidden_states=inputs["context"]
        ).sample.float()
        error = (prediction - inputs["target"]).square().mean(dim=(1, 2, 3))
        result = {"loss": float((inputs["weight"] * error).mean()), "mse": float(error.mean())}
        for quarter, part in enumerate(error.chunk(4), 1):
            result[f"mse_quarter_{quarter}"] = float(part.mean())
        return result

    @torch.no_grad()
    def sample(self, module: UNetModule, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Latents (B, C, h, w) by DDIM with classifier-free guidance, a seed a prompt."""
        device = next(module.parameters()).device
        # GuidedDenoiser wants the context of the negative prompts first.
        context = text.encode(self.text_encoder, self.tokens([*[""] * len(prompts), *prompts]))
        guided = GuidedDenoiser(
            Denoiser(module.unet, self.config.prediction_type),
            Guidance(scale=self.config.sheet_guidance),
        )
        scheduler = DDIM(
            self.schedule,
            num_inference_steps=min(self.config.sheet_steps, self.schedule.num_train_timesteps),
            spacing="trailing",
            prediction_type=self.config.prediction_type,
        )
        x = x_T = SeededNoise(seeds, self.shape, device).draw() * scheduler.init_noise_sigma
        for step in denoise(guided, scheduler, x_T, context=context):
            x = step.x
        return x

    @torch.no_grad()
    def sheet(self, module: UNetModule, step: int) -> Image.Image:
        """The fixed prompts, seeds 0 … 7, in rows of four."""
        latents = self.sample(module, SHEET_PROMPTS, range(len(SHEET_PROMPTS)))
        return contact_sheet(
            list(to_pictures(Autoencoder(self.vae).decode(latents))), columns=4, gap=2
        )

    def export(self, module: UNetModule, folder: Path) -> None:
        """Write a whole model that `latentdiff generate --model` and diffusers open."""
        unet = copy.deepcopy(module.unet).float().to(memory_format=torch.contiguous_format)
        whole = bundles.Bundle(
            unet=unet,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler_config=self.config.scheduler_config(),
        )
        bundles.save(whole, folder / "model")
        for part in sorted((folder / "model").iterdir()):
            part.rename(folder / part.name)
        (folder / "model").rmdir()

    def initialise(self, folder: Path) -> None:
        """Load the U-Net of an exported model (or an exported `unet/`)."""
        place = folder / "unet" if (folder / "unet").is_dir() else folder
        unet, _, _ = bundles.load_network(place, "unet", torch.float32)
        copy_weights(unet, self.module.unet, str(place))


# At the last timestep of this schedule √ᾱ is 0.015: a small error in ε becomes a large one in x_0,
# and a young ε-model draws pictures as bright as x_T's mean. A v-model predicts -x_0 there.
SNOWGLOBE: dict[str, Any] = {"prediction_type": "v_prediction", "weighting": "simple"}

PRESETS: dict[str, TextToImageConfig] = {
    "cpu": TextToImageConfig(**SNOWGLOBE),
    "h100": TextToImageConfig(
        model="snowglobe-wide",
        **SNOWGLOBE,
        validation_pictures=256,
        train=TrainConfig(
            batch_size=256,
            max_minutes=13.0,
            learning_rate=8e-4,
            warmup_steps=400,
            ema_decay=0.999,
            compile="default",
            channels_last=True,
            num_workers=12,
            log_every=50,
            validate_every=4000,
            sheet_every=4000,
            checkpoint_minutes=4,
            decay_fraction=0.25,
        ),
    ),
    "tiny": TextToImageConfig(
        model="tiny",
        validation_pictures=4,
        sheet_steps=2,
        train=TrainConfig(batch_size=4, steps=3, warmup_steps=1, tensorboard=False, log_every=1),
    ),
}
