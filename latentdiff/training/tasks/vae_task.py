"""The autoencoder task: crops of scenes in, the same crops out, through few smooth numbers.

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

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from latentdiff import seeding
from latentdiff.data.rendered.scene_pictures import open_pictures, row_of
from latentdiff.errors import UserError
from latentdiff.evaluation.distances import pca_floor, psnr, psnr_in_boxes
from latentdiff.models.autoencoder import Autoencoder, fold_latent_statistics
from latentdiff.models.bundle import save_network
from latentdiff.models.presets import build_vae, get
from latentdiff.pixels import to_pictures, to_pixels
from latentdiff.scenes.catalog import held_out_subjects
from latentdiff.scenes.records import Scene, SceneRecord
from latentdiff.scenes.world import World
from latentdiff.sheet import contact_sheet
from latentdiff.training.frozen import copy_weights, load_vae
from latentdiff.training.train_config import TrainConfig

MAX_BOXES = 2
STATISTICS_PICTURES = 256
"""Training pictures that the latent statistics of an export are measured on."""


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What the autoencoder learns from, and what it is asked for."""

    model: str = "snowglobe"
    """Sizes of the networks: a preset of `latentdiff.models.presets`."""
    world_seed: int = 0
    """World of the training scenes; evaluation uses another."""
    pool: Path | None = None
    """Folder of rendered scenes; without one, scenes are rendered as they are needed."""
    pool_rows: int = 0
    """Use only the first rows of the pool, so that training may start early; 0 uses all."""
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
    """Unseen scenes in each validation, and half as many with held-out subjects."""
    validation_seed: int = 1_000_003
    """World of the validation scenes."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(batch_size=4, learning_rate=1e-3, ema_decay=0.999)
    )

    def __post_init__(self) -> None:
        size, factor = get(self.model).picture_size, get(self.model).factor
        if not (0 < self.crop <= size and self.crop % factor == 0):
            raise UserError(f"crop is {self.crop}, expected a multiple of {factor} up to {size}")
        for name in ("centred", "latent_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected a number in [0, 1]")
        if self.validation_seed == self.world_seed:
            raise UserError("validation_seed equals world_seed: scenes would not be unseen")


class VaeModule(nn.Module):
    """The autoencoder with its loss."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = build_vae(config.model)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss and metrics of pictures (B, H, W, 3) uint8, noise (B, C, h, w), boxes (B, 2, 4)."""
        autoencoder, config = Autoencoder(self.vae), self.config
        x = to_pixels(batch["pictures"])
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
    """Trains `AutoencoderKL` on scenes; see `latentdiff.training.task.Task`."""

    name = "vae"

    def __init__(self, config: VaeConfig) -> None:
        self.config = config
        self.seed = config.train.seed
        preset = get(config.model)
        self.size = preset.picture_size
        self.noise_shape = (preset.latent_channels, *(config.crop // preset.factor,) * 2)
        self.pictures = open_pictures(
            pool=config.pool,
            rows=config.pool_rows,
            world_seed=config.world_seed,
            size=self.size,
        )
        torch.manual_seed(seeding.integers(2**31, self.seed, "initial weights"))
        self.module = VaeModule(config)
        self._unseen: tuple[list[Scene], list[Scene]] | None = None
        self._floor: float | None = None

    def prepare(self, device: torch.device) -> None:
        """Nothing is frozen here."""

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """pictures (B, c, c, 3) uint8, noise (B, C, c/f, c/f) float32, boxes (B, 2, 4) int16."""
        crop = self.config.crop
        pictures = np.empty((len(positions), crop, crop, 3), np.uint8)
        noise = np.empty((len(positions), *self.noise_shape), np.float32)
        boxes = np.zeros((len(positions), MAX_BOXES, 4), np.int16)
        for k, position in enumerate(positions):
            row = row_of(position, self.pictures.count, self.seed)
            record = self.pictures.record(row)
            x, y = self._corner(record, position)
            pictures[k] = self.pictures.picture(row)[y : y + crop, x : x + crop]
            noise[k] = seeding.standard_normal(self.noise_shape, self.seed, "posterior", position)
            for n, placement in enumerate(record.placements[:MAX_BOXES]):
                boxes[k, n] = np.subtract(placement.box, (x, y, x, y))
        return {
            "pictures": torch.from_numpy(pictures),
            "noise": torch.from_numpy(noise),
            "boxes": torch.from_numpy(boxes),
        }

    def _corner(self, record: SceneRecord, position: int) -> tuple[int, int]:
        """Upper left corner of the crop: near a subject's middle, or anywhere."""
        room = self.size - self.config.crop
        if room == 0:
            return 0, 0
        draw = seeding.generator(self.seed, "crop", position)
        if draw.random() >= self.config.centred:
            return int(draw.integers(room + 1)), int(draw.integers(room + 1))
        box = record.placements[int(draw.integers(len(record.placements)))].box
        corner = []
        for low, high in ((box[0], box[2]), (box[1], box[3])):
            middle = (low + high) / 2 + (draw.random() - 0.5) * (high - low) * 0.6
            corner.append(int(np.clip(round(middle - self.config.crop / 2), 0, room)))
        return corner[0], corner[1]

    def unseen(self) -> tuple[list[Scene], list[Scene]]:
        """Validation scenes: of base subjects, and of held-out ones."""
        if self._unseen is None:
            seed, count = self.config.validation_seed, self.config.validation_pictures
            base = World(seed, size=self.size)
            others = World(seed, size=self.size, subjects=held_out_subjects())
            self._unseen = (
                [base.scene(k) for k in range(count)],
                [others.scene(k) for k in range(max(1, count // 2))],
            )
        return self._unseen

    @torch.no_grad()
    def reconstruct(self, module: VaeModule, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pictures (N, H, W, 3) uint8 through the posterior's mean and back."""
        autoencoder = Autoencoder(module.vae)
        out = []
        for first in range(0, len(pictures), 32):
            x = to_pixels(torch.from_numpy(pictures[first : first + 32]).to(autoencoder.device))
            moments = autoencoder.encode_moments(x)
            out.append(to_pictures(autoencoder.decode(autoencoder.mode(moments))))
        return np.concatenate(out)

    def validate(self, module: VaeModule, step: int) -> dict[str, float]:
        """Mean 8-bit PSNR in dB: whole pictures, inside boxes, held-out subjects; the PCA floor."""
        base, others = self.unseen()
        result: dict[str, float] = {}
        for name, scenes in (("", base), ("held_out_", others)):
            pictures = np.stack([scene.image for scene in scenes])
            made = self.reconstruct(module, pictures)
            boxes = [[p.box for p in scene.record.placements] for scene in scenes]
            result[f"{name}psnr"] = float(psnr(pictures, made).mean())
            result[f"{name}psnr_boxes"] = float(psnr_in_boxes(pictures, made, boxes)[0].mean())
        result["psnr_pca"] = self.floor()
        return result

    def floor(self) -> float:
        """PSNR in dB of patch PCA with as many numbers, on the validation pictures."""
        if self._floor is None:
            preset = get(self.config.model)
            rows = range(min(64, self.pictures.count or 64))
            fitted = np.stack([self.pictures.picture(k) for k in rows])
            unseen = np.stack([scene.image for scene in self.unseen()[0]])
            dB = pca_floor(fitted, unseen, preset.factor, preset.latent_channels)
            self._floor = float(dB.mean())
        return self._floor

    def sheet(self, module: VaeModule, step: int) -> Image.Image:
        """Unseen pictures above their reconstructions; the last two show held-out subjects."""
        base, others = self.unseen()
        pictures = np.stack([s.image for s in (*base[:6], *others[:2])])
        return contact_sheet(
            [*pictures, *self.reconstruct(module, pictures)], columns=len(pictures), gap=2
        )

    @torch.no_grad()
    def export(self, module: VaeModule, folder: Path) -> None:
        """Write the autoencoder with its latent statistics folded in: unit variance per channel."""
        vae = copy.deepcopy(module.vae).float().to(memory_format=torch.contiguous_format).eval()
        autoencoder = Autoencoder(vae)
        means = []
        rows_there = range(min(STATISTICS_PICTURES, self.pictures.count or STATISTICS_PICTURES))
        for first in rows_there[::32]:
            rows = [self.pictures.picture(k) for k in rows_there[first : first + 32]]
            x = to_pixels(torch.from_numpy(np.stack(rows)).to(autoencoder.device))
            means.append(autoencoder.encode_moments(x).chunk(2, dim=1)[0])
        means_all = torch.cat(means)
        std, mean = torch.std_mean(means_all, dim=(0, 2, 3))
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


PRESETS: dict[str, VaeConfig] = {
    "cpu": VaeConfig(),
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
