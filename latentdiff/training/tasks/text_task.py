"""The text task: a text tower learns to expect the picture that a caption describes.

Contrastive training tells captions apart along as few directions as suffice, and in a small world
those are few: `latentdiff evaluate text` found 126 subjects along some six. A U-Net that is steered
by such a tower learns the place and a spot of colour. Here the tower's states from the end-of-text
token on, which are what a U-Net pools, are regressed on the caption's expected latents: a text
tower trained towards locked pictures, as in LiT (Zhai et al. 2022, arXiv:2111.07991), by squares in
place of contrasts. It is the diffusion objective at the last timestep, for the tower alone. A fixed
rotation reads the code from the states, so that the tower, and no head, must spread it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from latentdiff import seeding
from latentdiff.data.rendered.pixel_pool import PixelPool
from latentdiff.data.rendered.scene_pictures import PoolPictures
from latentdiff.errors import UserError
from latentdiff.models.bundle import save_network, save_tokenizer
from latentdiff.scenes.captions import caption, prompt_of
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.world import World
from latentdiff.training.context import RunContext
from latentdiff.training.feeds.caption_tokens import CaptionTokens
from latentdiff.training.feeds.scenes import open_pool_latents
from latentdiff.training.frozen import copy_weights, load_text_encoder, load_vae
from latentdiff.training.task import Batch
from latentdiff.training.tasks.expected_latents import ExpectedLatents
from latentdiff.training.train_config import TrainConfig

if TYPE_CHECKING:
    from transformers import CLIPTextModel

EMBEDDING_SCALE = 4.0
"""Fresh token embeddings are this much larger than CLIP's: words stay apart in the states."""
SHARE = 0.85
"""Mean square of a code: states have 1 in each dimension (the last norm sees to it)."""
_TRIES = 16


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """What the tower learns from."""

    HELP_PRESETS: ClassVar[dict[str, str]] = {
        "cpu": "the embedded model's tower.",
        "h100": "the same on one GPU.",
        "tiny": "three steps of a toy, to see that all works.",
    }
    HELP_FIRST: ClassVar[tuple[str, ...]] = (
        *("pool", "cache", "vae", "clip", "run_dir", "steps", "max_minutes", "resume"),
    )

    pool: Path | None = None
    """Folder of rendered scenes; needed."""
    cache: Path | None = None
    """The pool's latents; needed."""
    vae: Path | None = None
    """The autoencoder that made them; needed."""
    clip: Path | None = None
    """A `train clip` run or a model: its tokenizer, and its text tower's size, not its weights;
    needed."""
    directions: int | None = None
    """Length of a code; by default five sixths of the tower's width."""
    power: float = 0.75
    """How even a code's directions are: 0 as latents have them, 1 all the same."""
    pairs: float = 0.35
    """Share of captions about two subjects, at least as many as the world draws."""
    validation_pictures: int = 256
    """The pool's last scenes, an eighth of them at most, kept from the fit of the expectations."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            batch_size=128,
            steps=1000,
            optimizer="muon",
            learning_rate=1e-3,
            muon_learning_rate=1e-3,
            warmup_steps=30,
            decay_fraction=0.4,
            decay_shape="linear",
            ema_decay=0.0,
            validate_every=250,
        )
    )

    def __post_init__(self) -> None:
        if not 0.0 <= self.power <= 1.0:
            raise UserError(f"power is {self.power}, expected 0 … 1")
        if not 0.0 <= self.pairs < 1.0:
            raise UserError(f"pairs is {self.pairs}, expected 0 up to 1")
        if self.validation_pictures < 1:
            raise UserError(
                f"validation_pictures is {self.validation_pictures}, expected at least 1"
            )

    @property
    def parts(self) -> tuple[Path, Path, Path, Path]:
        """pool, cache, vae and clip; UserError where one is not given."""
        places = {"pool": self.pool, "cache": self.cache, "vae": self.vae, "clip": self.clip}
        for name, place in places.items():
            if place is None:
                raise UserError(f"the tower learns from a pool's latents: give --{name} too")
        pool, cache, vae, clip = (place for place in places.values() if place is not None)
        return pool, cache, vae, clip


class TextModule(nn.Module):
    """The tower and the fixed rotation that reads codes from its states."""

    rotation: Tensor

    def __init__(self, tower: CLIPTextModel, directions: int, end: int) -> None:
        """end: the end-of-text token's id."""
        super().__init__()
        self.tower, self.end = tower, end
        width = int(tower.config.hidden_size)
        if not 1 <= directions <= width:
            raise UserError(f"directions is {directions}, expected 1 … {width}, the tower's width")
        draw = torch.Generator().manual_seed(seeding.integers(2**31, 0, "text rotation"))
        rotation = torch.linalg.qr(torch.randn(width, width, generator=draw))[0]
        self.register_buffer("rotation", rotation[:, :directions].contiguous())

    def read(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, L, K) at every token, and (B, L) 1 from the end of text on, else 0."""
        states = self.tower(input_ids=input_ids).last_hidden_state.float()
        first = (input_ids == self.end).int().argmax(dim=1, keepdim=True)
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        return states @ self.rotation, (place >= first).float()

    def expect(self, input_ids: Tensor) -> Tensor:
        """Codes (B, K): the mean from the end of text on."""
        codes, counted = self.read(input_ids)
        return (codes * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)

    def forward(self, batch: Batch) -> Batch:
        codes, counted = self.read(batch["input_ids"])
        squares = (codes - batch["code"][:, None]).square().mean(dim=2)
        return {"loss": (squares * counted).sum() / counted.sum()}


class TextTask:
    """Trains a `CLIPTextModel`; see `latentdiff.training.task.Task`."""

    name = "text"

    def __init__(self, config: TextConfig, context: RunContext) -> None:
        self.config, self.seed = config, config.train.seed
        tower, self.tokenizer = load_text_encoder(config.parts[-1])
        tower = self._fresh(tower)
        self.tokens = CaptionTokens(self.tokenizer)
        directions = config.directions or int(tower.config.hidden_size) * 5 // 6
        self.module = TextModule(
            tower.train().requires_grad_(True), directions, cast("int", self.tokenizer.eos_token_id)
        )
        self._expected: ExpectedLatents | None = None
        self._pool: PixelPool | None = None
        self._kept: list[SceneRecord] = []
        self._world: World | None = None

    def _fresh(self, tower: CLIPTextModel) -> CLIPTextModel:
        from transformers import CLIPTextModel

        torch.manual_seed(seeding.integers(2**31, self.seed, "initial weights"))
        fresh = CLIPTextModel(tower.config)
        with torch.no_grad():
            fresh.get_input_embeddings().weight.mul_(EMBEDDING_SCALE)
        return fresh

    def open_data(self, context: RunContext) -> None:
        """Fit the expectations to the pool's latents."""
        config = self.config
        pool_folder, cache_folder, vae_folder, _ = config.parts
        self._pool = pool = PixelPool(pool_folder)
        images = PoolPictures(pool)
        cache = open_pool_latents(cache_folder, images, load_vae(vae_folder))
        fitted = len(pool) - min(config.validation_pictures, len(pool) // 8)
        records = [images.record(row) for row in range(len(pool))]
        moments = cache.moments(np.arange(fitted))
        self._expected = ExpectedLatents(
            records[:fitted],
            moments[:, : moments.shape[1] // 2],
            directions=self.module.rotation.shape[1],
            power=config.power,
            mean_square=SHARE,
        )
        self._world, self._kept = pool.spec.world(), records[fitted:]

    @property
    def expected(self) -> ExpectedLatents:
        """The fitted expectations; the data were opened before."""
        assert self._expected is not None, "the data are not open"
        return self._expected

    @property
    def summary(self) -> dict[str, Any]:
        """What is learnt from, for the run's report."""
        assert self._pool is not None
        return {"source": f"latents of {len(self._pool):,} scenes", "captions": "endless"}

    @property
    def fingerprint(self) -> str:
        """Of the pool; a run goes on with the same only."""
        assert self._pool is not None
        return self._pool.fingerprint

    def prepare(self, device: torch.device) -> None:
        """Nothing is frozen here."""

    def sample_names(self, positions: Sequence[int]) -> list[str]:
        """What a report calls the samples at these positions."""
        return [f"scene {self._record(position).index}" for position in positions]

    def _record(self, position: int) -> SceneRecord:
        """A scene of the world: of two subjects in at least `pairs` of all positions."""
        assert self._world is not None
        draw = seeding.generator(self.seed, "text/scene", position)
        two = draw.random() < self.config.pairs
        for _ in range(_TRIES):
            record = self._world.record(int(draw.integers(2**40)))
            if not two or len(record.subjects) == 2:
                break
        return record

    def batch(self, positions: Sequence[int]) -> Batch:
        """input_ids (B, L) int64 and code (B, K) float32."""
        records = [self._record(position) for position in positions]
        captions = [
            caption(record, seeding.generator(self.seed, "caption", position))
            for record, position in zip(records, positions, strict=True)
        ]
        return {
            "input_ids": self.tokens(captions),
            "code": torch.from_numpy(self.expected(records)),
        }

    @torch.no_grad()
    def validate(self, module: TextModule, step: int) -> dict[str, float]:
        """Explained variance of the codes of scenes that the fit did not see, alone and in pairs,
        and the share of scenes with one subject whose own code is the nearest."""
        device = module.rotation.device
        texts = [prompt_of(r) for r in self._kept]
        found = module.expect(self.tokens(texts).to(device)).cpu()
        code = torch.from_numpy(self.expected(self._kept))
        single = torch.tensor([len(r.subjects) == 1 for r in self._kept])
        numbers = {}
        for name, rows in (("explained_single", single), ("explained_pair", ~single)):
            if rows.any():
                error = (found[rows] - code[rows]).square().mean()
                numbers[name] = float(1 - error / code[rows].square().mean())
        if single.any():
            nearest = torch.cdist(found[single], code[single]).argmin(dim=1)
            same = code[single][nearest] == code[single]
            numbers["own_is_nearest"] = float(same.all(dim=1).float().mean())
        return numbers

    def sheet(self, module: TextModule, step: int) -> Image.Image | None:
        """A number says more than a picture here."""
        return None

    def export(self, module: TextModule, folder: Path) -> None:
        """Write `text_encoder/` and `tokenizer/`, as in a Stable Diffusion folder."""
        save_network(module.tower, "text_encoder", folder / "text_encoder")
        save_tokenizer(self.tokenizer, folder / "tokenizer")

    def initialise(self, folder: Path) -> None:
        """Load an exported tower of the same size."""
        tower, _ = load_text_encoder(folder)
        copy_weights(tower, self.module.tower, str(folder))


PRESETS: dict[str, TextConfig] = {
    "cpu": TextConfig(),
    "h100": TextConfig(train=replace(TextConfig().train, batch_size=256, num_workers=4)),
    "tiny": TextConfig(
        validation_pictures=8,
        train=replace(
            TextConfig().train,
            batch_size=8,
            steps=3,
            warmup_steps=1,
            tensorboard=False,
            log_every=1,
        ),
    ),
}
