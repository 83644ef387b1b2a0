"""The autoencoder task: crops of images in, the same crops out, through few smooth numbers.

The posterior is N(μ, (s·σ_c)²) with a fixed share s of each channel's own standard deviation σ_c
(measured over the batch): the decoder always meets that noise, so latents that are off by as much
still decode well, and no channel can buy precision by growing. At export the encoder's log
variances are set to exactly that constant, and the channels' statistics are folded into
`quant_conv` and `post_quant_conv`, so that every export has latents of unit variance.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentdiff import seeding
from latentdiff.data.rendered.scene_pictures import open_pictures
from latentdiff.errors import UserError
from latentdiff.evaluation.distances import pca_floor, psnr, psnr_in_boxes
from latentdiff.models.autoencoder import Autoencoder, fold_latent_statistics
from latentdiff.models.bundle import save_network
from latentdiff.models.presets import build_vae, get
from latentdiff.pixels import to_pictures, to_pixels
from latentdiff.sheet import contact_sheet
from latentdiff.training.context import RunContext
from latentdiff.training.feeds.data_config import DataConfig
from latentdiff.training.feeds.own import open_own_images
from latentdiff.training.feeds.settings import FeedSettings
from latentdiff.training.frozen import copy_weights, load_vae
from latentdiff.training.tasks.vae_data import Crops, OwnCrops, SceneCrops
from latentdiff.training.train_config import TrainConfig

STATISTICS_PICTURES = 256
"""Training pictures that the latent statistics of an export are measured on."""


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What the autoencoder learns from, and what it is asked for."""

    HELP_PRESETS: ClassVar[dict[str, str]] = {
        "cpu": "the embedded model's autoencoder.",
        "h100": "larger crops and batches, on one GPU.",
        "tiny": "four steps of a toy, to see that all works.",
    }
    HELP_FIRST: ClassVar[tuple[str, ...]] = (
        *("data", "model", "run_dir", "steps", "max_minutes", "batch_size", "learning_rate"),
        *("resolution", "crop", "keep_encoder", "resume"),
    )
    HELP_GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "The loss": ("box_weight", "edge_weight", "kl_weight", "latent_noise"),
        "Scenes, where no data are given": (
            *("world_seed", "pool", "pool_rows", "centred", "validation_seed"),
        ),
        "Validation and sample sheets": ("validation_pictures",),
    }

    model: str = "snowglobe"
    """Sizes of the networks: a preset of `latentdiff.models.presets`."""
    world_seed: int = 0
    """World of the training scenes; evaluation uses another."""
    pool: Path | None = None
    """Folder of rendered scenes; without one, scenes are rendered as they are needed."""
    pool_rows: int = 0
    """Use only the first rows of the pool, so that training may start early; 0 uses all."""
    pictures: DataConfig = field(default_factory=DataConfig)
    crop: int = 64
    """Side of a training crop in pixels; the picture's own size means whole pictures."""
    centred: float = 0.75
    """Share of crops that are centred, with jitter, on a subject."""
    box_weight: float = 2.0
    """Weight of pixels inside subjects' boxes; others have 1."""
    edge_weight: float = 0.5
    """Weight of the error of the picture's gradient."""
    kl_weight: float = 1e-5
    """Weight of μ² / 2 per latent element."""
    latent_noise: float = 0.05
    """Standard deviation of the posterior, as a share of the channel's."""
    validation_pictures: int = 64
    """Unseen scenes in each validation, and half as many with held-out subjects; or held-out
    images of your own, at most."""
    validation_seed: int = 1_000_003
    """World of the validation scenes."""
    keep_encoder: Path | None = None
    """An autoencoder (a run, or a model) to begin from whose encoder is kept: only the decoder
    learns. Latents stay what they are, so U-Nets and caches made over them still fit."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(batch_size=4, learning_rate=1e-3, ema_decay=0.999)
    )

    def __post_init__(self) -> None:
        factor = get(self.model).factor
        size = self.pictures.sizes.resolution or get(self.model).picture_size
        if not (0 < self.crop <= size and self.crop % factor == 0):
            raise UserError(f"crop is {self.crop}, expected a multiple of {factor} up to {size}")
        for name in ("centred", "latent_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected a number in [0, 1]")
        if self.keep_encoder is not None and self.train.init_from is not None:
            raise UserError("keep_encoder begins from its own autoencoder: leave --init-from out")
        if self.pictures.data is not None and self.pool is not None:
            raise UserError("both --data and --pool were given; give one")
        if self.validation_seed == self.world_seed:
            raise UserError("validation_seed equals world_seed: scenes would not be unseen")


class VaeModule(nn.Module):
    """The autoencoder with its loss."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = build_vae(config.model)
        if config.keep_encoder is not None:
            copy_weights(load_vae(config.keep_encoder), self.vae, str(config.keep_encoder))
            self.vae.encoder.requires_grad_(False)
            self.vae.quant_conv.requires_grad_(False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss and metrics of images (B, H, W, 3) uint8, noise (B, C, h, w), boxes (B, 2, 4)."""
        autoencoder, config = Autoencoder(self.vae), self.config
        x = to_pixels(batch["images"])
        mean = autoencoder.encode_moments(x).float().chunk(2, dim=1)[0]
        spread = mean.detach().std(dim=(0, 2, 3), keepdim=True)
        z = mean + config.latent_noise * spread * batch["noise"]
        difference = autoencoder.decode(z * autoencoder.scaling_factor).float() - x
        weight = 1.0 + (config.box_weight - 1.0) * inside_boxes(batch["boxes"], x.shape[-2:])
        # Charbonnier et al. 1994: L1 with a rounded tip, here a fifth of a grey level wide.
        pixel = (weight * torch.sqrt(difference.square() + 1e-5)).mean() / weight.mean()
        edge = 0.5 * (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean())
        kl = 0.5 * mean.square().mean()
        loss = pixel + config.edge_weight * edge + config.kl_weight * kl
        mse = difference.detach().square().mean(dim=(1, 2, 3))
        return {
            "loss": loss,
            "l1": difference.detach().abs().mean(),
            "edge": edge.detach(),
            "kl": kl.detach(),
            "psnr": (-10.0 * torch.log10(mse / 4.0 + 1e-10)).mean(),
        }


def inside_boxes(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """1 inside any of a picture's boxes, 0 outside: (B, 1, H, W) float32.

    boxes: (B, n, 4) of x0, y0, x1, y1, the ends exclusive; empty ones hold nothing.
    """
    height, width = size
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)
    x0, y0, x1, y1 = boxes.unbind(-1)
    across = (x >= x0[..., None]) & (x < x1[..., None])
    down = (y >= y0[..., None]) & (y < y1[..., None])
    return (down[..., :, None] & across[..., None, :]).any(dim=1, keepdim=True).float()


class VaeTask:
    """Trains `AutoencoderKL`; see `latentdiff.training.task.Task`."""

    name = "vae"

    def __init__(self, config: VaeConfig, context: RunContext) -> None:
        if context.kept is None:
            config.pictures.refuse_missing()
        self.config = config
        self.seed = config.train.seed
        self.preset = get(config.model)
        torch.manual_seed(seeding.integers(2**31, self.seed, "initial weights"))
        self.module = VaeModule(config)
        self._data: Crops | None = None
        self._floor: float | None = None

    @property
    def data(self) -> Crops:
        """What is learnt from; opened before."""
        assert self._data is not None, "the data are not open"
        return self._data

    def open_data(self, context: RunContext) -> None:
        """Scenes, or the user's images: listed, measured, sorted into buckets."""
        config = self.config
        if config.pictures.data is None:
            scenes = open_pictures(
                pool=config.pool,
                rows=config.pool_rows,
                world_seed=config.world_seed,
                size=self.preset.picture_size,
            )
            self._data = SceneCrops(
                scenes,
                crop=config.crop,
                centred=config.centred,
                seed=self.seed,
                validation_seed=config.validation_seed,
                validation_images=config.validation_pictures,
            )
            return
        settings = FeedSettings(
            data=config.pictures,
            size=self.preset.picture_size,
            multiple=self.preset.factor,
            seed=self.seed,
            batch_size=config.train.batch_size,
            most_held_out=config.validation_pictures,
            need_captions=False,
        )
        self._data = OwnCrops(
            open_own_images(settings, context),
            crop=config.crop,
            seed=self.seed,
            validation_images=config.validation_pictures,
        )

    @property
    def summary(self) -> dict[str, Any]:
        """What is learnt from, for the run's report."""
        return self.data.summary

    @property
    def fingerprint(self) -> str:
        """Of the data; a run goes on with the same only."""
        return self.data.fingerprint

    def prepare(self, device: torch.device) -> None:
        """Nothing is frozen here."""

    def sample_names(self, positions: Sequence[int]) -> list[str]:
        """What a report calls the samples at these positions."""
        return self.data.names(positions)

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """images (B, c, c, 3) uint8, noise (B, C, c/f, c/f) float32, boxes (B, 2, 4) int16."""
        images, boxes = self.data.crops(positions)
        height, width = (side // self.preset.factor for side in images.shape[1:3])
        shape = (self.preset.latent_channels, height, width)
        noise = np.empty((len(positions), *shape), np.float32)
        for k, position in enumerate(positions):
            noise[k] = seeding.standard_normal(shape, self.seed, "posterior", position)
        return {
            "images": torch.from_numpy(images),
            "noise": torch.from_numpy(noise),
            "boxes": torch.from_numpy(boxes),
        }

    @torch.no_grad()
    def reconstruct(
        self, module: VaeModule, images: Sequence[NDArray[np.uint8]]
    ) -> list[NDArray[np.uint8]]:
        """Images (H, W, 3) uint8, of any sizes, through the posterior's mean and back."""
        autoencoder = Autoencoder(module.vae)
        made: list[NDArray[np.uint8]] = list(images)
        for rows in same_size(images):
            x = to_pixels(torch.from_numpy(np.stack([images[k] for k in rows])))
            moments = autoencoder.encode_moments(x.to(autoencoder.device))
            decoded = to_pictures(autoencoder.decode(autoencoder.mode(moments)))
            for k, image in zip(rows, decoded, strict=True):
                made[k] = image
        return made

    def validate(self, module: VaeModule, step: int) -> dict[str, float]:
        """Mean 8-bit PSNR in dB of unseen images; of scenes also inside boxes and with held-out
        subjects; and the PCA floor."""
        result: dict[str, float] = {}
        for name, (images, boxes) in self.data.validation().items():
            made = self.reconstruct(module, images)
            scores = [
                psnr(np.stack([images[k] for k in rows]), np.stack([made[k] for k in rows]))
                for rows in same_size(images)
            ]
            result[f"{name}psnr"] = float(np.concatenate(scores).mean())
            if boxes is not None:
                inside = psnr_in_boxes(np.stack(images), np.stack(made), boxes)[0]
                result[f"{name}psnr_boxes"] = float(inside.mean())
        if result:
            result["psnr_pca"] = self.floor()
        return result

    def floor(self) -> float:
        """PSNR in dB of patch PCA with as many numbers, on the validation images, cut to the size
        that all have."""
        if self._floor is None:
            fitted, (unseen, _) = self.data.trained(64), self.data.validation()[""]
            sides = [side for image in (*fitted, *unseen) for side in image.shape[:2]]
            dB = pca_floor(
                np.stack([middle(image, min(sides)) for image in fitted]),
                np.stack([middle(image, min(sides)) for image in unseen]),
                self.preset.factor,
                self.preset.latent_channels,
            )
            self._floor = float(dB.mean())
        return self._floor

    def sheet(self, module: VaeModule, step: int) -> PIL.Image.Image:
        """Unseen images above their reconstructions; of scenes the last two show held-out
        subjects."""
        groups = [images for images, _ in self.data.validation().values()]
        groups = groups or [self.data.trained(8)]
        shown = groups[0][:8] if len(groups) == 1 else [*groups[0][:6], *groups[1][:2]]
        both = [*shown, *self.reconstruct(module, shown)]
        side = min(side for image in shown for side in image.shape[:2])
        return contact_sheet([middle(image, side) for image in both], columns=len(shown), gap=2)

    @torch.no_grad()
    def export(self, module: VaeModule, folder: Path) -> None:
        """Write the autoencoder with its latent statistics folded in: unit variance per channel.
        A kept encoder's are left as they are."""
        vae = copy.deepcopy(module.vae).float().to(memory_format=torch.contiguous_format).eval()
        if self.config.keep_encoder is not None:
            save_network(vae, "vae", folder)
            return
        autoencoder = Autoencoder(vae)
        images = self.data.trained(STATISTICS_PICTURES)
        means = []
        for rows in same_size(images):
            x = to_pixels(torch.from_numpy(np.stack([images[k] for k in rows])))
            moments = autoencoder.encode_moments(x.to(autoencoder.device))
            means.append(moments.chunk(2, dim=1)[0])
        if len({mean.shape[1:] for mean in means}) > 1:
            means = [mean.movedim(1, 0).reshape(1, mean.shape[1], 1, -1) for mean in means]
            means = [torch.cat(means, dim=3)]
        std, mean = torch.std_mean(torch.cat(means), dim=(0, 2, 3))
        share = max(self.config.latent_noise, 1e-3)
        channels = len(std)
        vae.quant_conv.weight[channels:] = 0.0
        vae.quant_conv.bias[channels:] = 2.0 * torch.log(share * std)
        # A sample's variance is that of the means and the posterior's own.
        fold_latent_statistics(vae, mean, std * (1.0 + share**2) ** 0.5)
        save_network(vae, "vae", folder)

    def initialise(self, folder: Path) -> None:
        """Load an exported autoencoder (folded or not: it is the same function)."""
        copy_weights(load_vae(folder), self.module.vae, str(folder))


def same_size(images: Sequence[NDArray[np.uint8]], most: int = 32) -> list[list[int]]:
    """Numbers of images that have one size, at most so many together."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for k, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(k)
    return [
        rows[first : first + most]
        for rows in by_shape.values()
        for first in range(0, len(rows), most)
    ]


def middle(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The square of that side in the middle of an image (H, W, 3)."""
    y, x = ((length - side) // 2 for length in image.shape[:2])
    return image[y : y + side, x : x + side]


PRESETS: dict[str, VaeConfig] = {
    "cpu": VaeConfig(
        crop=96,
        validation_pictures=16,
        train=TrainConfig(
            batch_size=8,
            optimizer="muon",
            learning_rate=1e-3,
            muon_learning_rate=0.012,
            ema_decay=0.998,
            decay_fraction=0.3,
            decay_shape="linear",
            channels_last=True,
        ),
    ),
    "h100": VaeConfig(
        crop=128,
        validation_pictures=512,
        train=TrainConfig(
            batch_size=16,
            max_minutes=5.5,
            learning_rate=1e-3,
            warmup_steps=200,
            ema_decay=0.999,
            compile="default",
            channels_last=True,
            num_workers=6,
            log_every=100,
            validate_every=0,
            sheet_every=0,
            decay_fraction=0.2,
        ),
    ),
    "tiny": VaeConfig(
        model="tiny",
        crop=16,
        validation_pictures=4,
        train=TrainConfig(batch_size=4, steps=4, warmup_steps=1, tensorboard=False, log_every=1),
    ),
}
