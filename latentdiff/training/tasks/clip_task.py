"""The CLIP task: pictures and captions that belong together are drawn together.

Contrastive as in Radford et al. 2021 (figure 3), with one difference: a small world repeats
itself, so a batch holds several pictures that one caption is true of. Pairs with the same
subjects, setting and relation are all positives of each other (Khosla et al. 2020, "Supervised
contrastive learning", the loss with the mean outside the logarithm).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from latentdiff import seeding
from latentdiff.data.rendered.scene_pictures import open_pictures, row_of
from latentdiff.errors import UserError
from latentdiff.models.bundle import save_tokenizer
from latentdiff.models.presets import build_clip, get
from latentdiff.models.tokenizer import build_tokenizer
from latentdiff.pixels import to_pixels
from latentdiff.scenes.captions import caption, prompt, vocabulary
from latentdiff.scenes.records import SceneRecord
from latentdiff.scenes.world import World
from latentdiff.training.feeds.caption_tokens import CaptionTokens
from latentdiff.training.frozen import copy_weights, save_text_encoder
from latentdiff.training.train_config import TrainConfig

if TYPE_CHECKING:
    from transformers import CLIPModel

MAX_SCALE = 100.0
"""Bound of the learnt inverse temperature (Radford et al. 2021, section 2.5)."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What the two towers learn from."""

    model: str = "snowglobe"
    """Sizes of the networks: a preset of `latentdiff.models.presets`."""
    world_seed: int = 0
    """World of the training scenes."""
    pool: Path | None = None
    """Folder of rendered scenes; without one, scenes are rendered as they are needed."""
    pool_rows: int = 0
    """Use only the first rows of the pool; 0 uses all."""
    validation_pictures: int = 256
    """Unseen scenes in each validation."""
    validation_seed: int = 1_000_003
    """World of the validation scenes."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(batch_size=128, learning_rate=5e-4, ema_decay=0.998)
    )

    def __post_init__(self) -> None:
        if self.validation_seed == self.world_seed:
            raise UserError("validation_seed equals world_seed: scenes would not be unseen")


class ClipModule(nn.Module):
    """Both towers with the contrastive loss."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    def embed(self, pictures: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (B, D) of pictures (B, H, W, 3) uint8 and of captions (B, L)."""
        out = self.clip(input_ids=input_ids, pixel_values=to_pixels(pictures))
        return out.image_embeds.float(), out.text_embeds.float()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """loss and accuracy (the best-matching caption is a true one) of a batch."""
        image, text = self.embed(batch["pictures"], batch["input_ids"])
        group = batch["group"]
        image, text, group = gather(image), gather(text), gather(group)
        scale = self.clip.logit_scale.exp().clamp(max=MAX_SCALE)
        logits = scale * image @ text.T
        same = (group[:, None] == group[None, :]).float()
        wanted = same / same.sum(dim=1, keepdim=True)
        loss = 0.5 * (cross_entropy(logits, wanted) + cross_entropy(logits.T, wanted))
        best = logits.detach().argmax(dim=1, keepdim=True)
        return {
            "loss": loss,
            "accuracy": same.gather(1, best).mean(),
            "scale": scale.detach(),
        }


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, with gradients; x itself when there is one process."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    if distributed.get_world_size() == 1:
        return x
    if not x.is_floating_point():
        rows = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(rows, x)
        return torch.cat(rows)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x))


def group_of(record: SceneRecord) -> int:
    """A number that is equal for records which the same captions are true of."""
    subjects, relation = record.subjects, record.relation or ""
    if relation == "right of":
        subjects, relation = subjects[::-1], "left of"
    elif relation != "left of":
        subjects = tuple(sorted(subjects))
    text = "|".join((record.setting, relation, *subjects))
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class ClipTask:
    """Trains a `CLIPModel` from nothing; see `latentdiff.training.task.Task`."""

    name = "clip"

    def __init__(self, config: ClipConfig) -> None:
        self.config = config
        self.seed = config.train.seed
        preset = get(config.model)
        self.size = preset.picture_size
        self.pictures = open_pictures(
            pool=config.pool, rows=config.pool_rows, world_seed=config.world_seed, size=self.size
        )
        self.tokenizer = build_tokenizer(vocabulary(), preset.max_length)
        self.tokens = CaptionTokens(self.tokenizer)
        torch.manual_seed(seeding.integers(2**31, self.seed, "initial weights"))
        clip = build_clip(
            config.model,
            len(self.tokenizer),
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.module = ClipModule(clip)
        self._unseen: tuple[Tensor, Tensor, Tensor] | None = None

    def prepare(self, device: torch.device) -> None:
        """Nothing is frozen here."""

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """pictures (B, H, W, 3) uint8, input_ids (B, L) int64, group (B,) int64."""
        rows = [row_of(position, self.pictures.count, self.seed) for position in positions]
        records = [self.pictures.record(row) for row in rows]
        captions = [
            caption(record, seeding.generator(self.seed, "caption", position))
            for record, position in zip(records, positions, strict=True)
        ]
        return {
            "pictures": torch.from_numpy(np.stack([self.pictures.picture(row) for row in rows])),
            "input_ids": self.tokens(captions),
            "group": torch.tensor([group_of(record) for record in records]),
        }

    def unseen(self) -> tuple[Tensor, Tensor, Tensor]:
        """Validation pictures, canonical prompts' tokens and groups."""
        if self._unseen is None:
            world = World(self.config.validation_seed, size=self.size)
            scenes = [world.scene(k) for k in range(self.config.validation_pictures)]
            records = [scene.record for scene in scenes]
            texts = [prompt(r.subjects, r.setting, r.relation) for r in records]
            self._unseen = (
                torch.from_numpy(np.stack([scene.image for scene in scenes])),
                self.tokens(texts),
                torch.tensor([group_of(record) for record in records]),
            )
        return self._unseen

    @torch.no_grad()
    def validate(self, module: ClipModule, step: int) -> dict[str, float]:
        """Share of unseen pictures whose best prompt is a true one, and the other way round."""
        device = next(module.parameters()).device
        pictures, input_ids, group = (x.to(device) for x in self.unseen())
        image, text = module.embed(pictures, input_ids)
        same = group[:, None] == group[None, :]
        similarity = image @ text.T
        by_picture = same.gather(1, similarity.argmax(dim=1, keepdim=True))
        by_text = same.T.gather(1, similarity.T.argmax(dim=1, keepdim=True))
        return {
            "picture_to_text": float(by_picture.float().mean()),
            "text_to_picture": float(by_text.float().mean()),
            "true_similarity": float(similarity.diagonal().mean()),
        }

    def sheet(self, module: ClipModule, step: int) -> Image.Image | None:
        """A number says more than a picture here."""
        return None

    def export(self, module: ClipModule, folder: Path) -> None:
        """Write `text_encoder/`, `tokenizer/` (as in a Stable Diffusion folder), and `clip/`."""
        module.clip.save_pretrained(folder / "clip")
        save_text_encoder(module.clip, folder / "text_encoder")
        save_tokenizer(self.tokenizer, folder / "tokenizer")

    def initialise(self, folder: Path) -> None:
        """Load an exported `clip/`; the vocabulary must be the same."""
        from transformers import CLIPModel, CLIPTokenizer

        place = folder / "export" if (folder / "export").is_dir() else folder
        known = CLIPTokenizer.from_pretrained(place / "tokenizer", local_files_only=True)
        if known.get_vocab() != self.tokenizer.get_vocab():
            raise UserError(f"{folder} was trained with another vocabulary; train from nothing")
        clip = CLIPModel.from_pretrained(place / "clip", local_files_only=True)
        copy_weights(clip, self.module.clip, str(place / "clip"))


PRESETS: dict[str, ClipConfig] = {
    "cpu": ClipConfig(),
    "h100": ClipConfig(
        train=TrainConfig(
            batch_size=512,
            max_minutes=2.0,
            learning_rate=1e-3,
            warmup_steps=200,
            ema_decay=0.998,
            num_workers=4,
            validate_every=0,
            sheet_every=0,
            decay_fraction=0.25,
        )
    ),
    "tiny": ClipConfig(
        model="tiny",
        validation_pictures=8,
        train=TrainConfig(batch_size=8, steps=3, warmup_steps=1, tensorboard=False, log_every=1),
    ),
}
