"""The CLIP task: pictures and captions that belong together are drawn together.

Contrastive as in Radford et al. 2021 (figure 3), with one difference: a small world repeats
itself, so a batch holds several pictures that one caption is true of. Pairs with the same
subjects, setting and relation are all positives of each other (Khosla et al. 2020, "Supervised
contrastive learning", the loss with the mean outside the logarithm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from latentdiff import seeding
from latentdiff.data.captions import CaptionConfig, CaptionPolicy
from latentdiff.data.records import Source
from latentdiff.data.rendered.scene_pictures import open_pictures
from latentdiff.errors import UserError
from latentdiff.models.bundle import save_tokenizer
from latentdiff.models.presets import build_clip, get
from latentdiff.models.tokenizer import build_tokenizer
from latentdiff.pixels import to_pixels
from latentdiff.scenes.captions import vocabulary
from latentdiff.training.context import RunContext
from latentdiff.training.feeds.caption_tokens import CaptionTokens
from latentdiff.training.feeds.data_config import DataConfig
from latentdiff.training.feeds.own import open_own_images
from latentdiff.training.feeds.settings import FeedSettings
from latentdiff.training.frozen import copy_weights, save_text_encoder
from latentdiff.training.tasks.clip_data import OwnPairs, PairedData, Pairs, ScenePairs
from latentdiff.training.train_config import TrainConfig

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

TOKENIZER = "tokenizer"
MAX_SCALE = 100.0
"""Bound of the learnt inverse temperature (Radford et al. 2021, section 2.5)."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What the two towers learn from."""

    HELP_PRESETS: ClassVar[dict[str, str]] = {
        "cpu": "the embedded model's towers.",
        "h100": "larger batches, on one GPU.",
        "tiny": "three steps of a toy, to see that all works.",
    }
    HELP_FIRST: ClassVar[tuple[str, ...]] = (
        *("data", "model", "run_dir", "steps", "max_minutes", "batch_size", "learning_rate"),
        *("vocabulary", "upscale", "resume"),
    )
    HELP_GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "Scenes, where no data are given": (
            *("world_seed", "pool", "pool_rows", "validation_seed"),
        ),
        "Validation and sample sheets": ("validation_pictures",),
    }

    model: str = "snowglobe"
    """Sizes of the networks: a preset of `latentdiff.models.presets`."""
    world_seed: int = 0
    """World of the training scenes."""
    pool: Path | None = None
    """Folder of rendered scenes; without one, scenes are rendered as they are needed."""
    pool_rows: int = 0
    """Use only the first rows of the pool; 0 uses all."""
    pictures: DataConfig = field(default_factory=DataConfig)
    captions: CaptionConfig = field(default_factory=lambda: CaptionConfig(caption_dropout=0.0))
    crop: Literal["center", "random"] = "center"
    """Where an image of your own that is not square is cut."""
    vocabulary: int = 4096
    """Most tokens of the tokenizer, which is learnt from the captions' words."""
    validation_pictures: int = 256
    """Unseen scenes in each validation; or held-out images of your own, at most."""
    validation_seed: int = 1_000_003
    """World of the validation scenes."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(batch_size=128, learning_rate=5e-4, ema_decay=0.998)
    )

    def __post_init__(self) -> None:
        own, side = self.pictures, get(self.model).picture_size
        if own.data is not None and self.pool is not None:
            raise UserError("both --data and --pool were given; give one")
        if own.stream:
            raise UserError(
                "the tokenizer is learnt from all captions, and a stream does not list them: leave "
                "out --stream"
            )
        if own.sizes.resolution not in (None, side):
            raise UserError(
                f"resolution is {own.sizes.resolution}; the model {self.model} sees squares of "
                f"{side} px, to which images are cut"
            )
        if self.captions.caption_dropout:
            raise UserError("an empty caption matches no image: leave caption_dropout at 0")
        if self.captions.long_captions == "chunk":
            raise UserError(
                "a caption in pieces has several embeddings: use --long-captions truncate"
            )
        if self.vocabulary < 514:
            raise UserError(f"vocabulary is {self.vocabulary}, expected 514 (all bytes) or more")
        if self.validation_seed == self.world_seed:
            raise UserError("validation_seed equals world_seed: scenes would not be unseen")


class ClipModule(nn.Module):
    """Both towers with the contrastive loss."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    def embed(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (B, D) of images (B, H, W, 3) uint8 and of captions (B, L)."""
        out = self.clip(input_ids=input_ids, pixel_values=to_pixels(images))
        return out.image_embeds.float(), out.text_embeds.float()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """loss and accuracy (the best-matching caption is a true one) of a batch."""
        image, text = self.embed(batch["images"], batch["input_ids"])
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


class ClipTask:
    """Trains a `CLIPModel` from nothing; see `latentdiff.training.task.Task`."""

    name = "clip"

    def __init__(self, config: ClipConfig, context: RunContext) -> None:
        if context.kept is None:
            config.pictures.refuse_missing()
        self.config = config
        self.seed = config.train.seed
        preset = get(config.model)
        self.size = preset.picture_size
        self._source: Source | None = None
        self.tokenizer = self._tokenizer(context)
        self.tokens = CaptionTokens(self.tokenizer, long=config.captions.long_captions)
        torch.manual_seed(seeding.integers(2**31, self.seed, "initial weights"))
        clip = build_clip(
            config.model,
            len(self.tokenizer),
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.module = ClipModule(clip)
        self._data: PairedData | None = None
        self._unseen: dict[str, Tensor] | None = None

    def _tokenizer(self, context: RunContext) -> CLIPTokenizer:
        """Of a kept step, of --init-from, or learnt from the words of all captions."""
        config, init = self.config, self.config.train.init_from
        if context.kept is not None:
            return load_tokenizer(context.kept / TOKENIZER)
        if init is not None and config.pictures.data is not None:
            place = init / "export" if (init / "export").is_dir() else init
            return load_tokenizer(place / TOKENIZER)
        if config.pictures.data is None:
            return build_tokenizer(vocabulary(), get(config.model).max_length)
        self._source = self._feed_settings().open_training()
        policy, source = CaptionPolicy(config.captions, self.seed), self._source
        texts = (text for row in range(len(source)) for text in policy.texts(source.captions(row)))
        return build_tokenizer(texts, get(config.model).max_length, vocab_size=config.vocabulary)

    def _feed_settings(self) -> FeedSettings:
        """Squares of the vision tower's size; what is smaller is left out, or enlarged."""
        own = self.config.pictures
        return FeedSettings(
            data=replace(own, sizes=replace(own.sizes, buckets=False)),
            captions=self.config.captions,
            crop=self.config.crop,
            size=self.size,
            multiple=self.size,
            seed=self.seed,
            batch_size=self.config.train.batch_size,
            most_held_out=self.config.validation_pictures,
        )

    @property
    def data(self) -> PairedData:
        """What is learnt from; opened before."""
        assert self._data is not None, "the data are not open"
        return self._data

    def open_data(self, context: RunContext) -> None:
        """Scenes, or the user's images: listed, measured, their captions counted."""
        config = self.config
        if config.pictures.data is None:
            scenes = open_pictures(
                pool=config.pool,
                rows=config.pool_rows,
                world_seed=config.world_seed,
                size=self.size,
            )
            self._data = ScenePairs(
                scenes,
                seed=self.seed,
                validation_seed=config.validation_seed,
                validation_images=config.validation_pictures,
            )
            return
        feed = open_own_images(
            self._feed_settings(), context, source=self._source, tokenizer=self.tokenizer
        )
        self._data = OwnPairs(feed, validation_images=config.validation_pictures)

    @property
    def summary(self) -> dict[str, Any]:
        """What is learnt from, for the run's report."""
        return {**self.data.summary, "tokens": len(self.tokenizer)}

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
        """images (B, H, W, 3) uint8, input_ids (B, L) int64, group (B,) int64."""
        return self._tensors(self.data.pairs(positions))

    def _tensors(self, pairs: Pairs) -> dict[str, Tensor]:
        return {
            "images": torch.from_numpy(pairs.images),
            "input_ids": self.tokens(pairs.captions),
            "group": torch.tensor(pairs.groups),
        }

    def unseen(self) -> dict[str, Tensor]:
        """Validation images, captions' tokens and groups; nothing where none are held out."""
        if self._unseen is None:
            pairs = self.data.unseen()
            self._unseen = {} if pairs is None else self._tensors(pairs)
        return self._unseen

    @torch.no_grad()
    def validate(self, module: ClipModule, step: int) -> dict[str, float]:
        """Share of unseen images whose best caption is a true one, and the other way round."""
        if not self.unseen():
            return {}
        device = next(module.parameters()).device
        unseen = {name: x.to(device) for name, x in self.unseen().items()}
        image, text = module.embed(unseen["images"], unseen["input_ids"])
        group = unseen["group"]
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
        save_tokenizer(self.tokenizer, folder / TOKENIZER)

    def keep_parts(self, folder: Path) -> None:
        """The tokenizer, which settles the number of embeddings."""
        save_tokenizer(self.tokenizer, folder / TOKENIZER)

    def initialise(self, folder: Path) -> None:
        """Load an exported `clip/`; the vocabulary must be the same."""
        from transformers import CLIPModel

        place = folder / "export" if (folder / "export").is_dir() else folder
        known = load_tokenizer(place / TOKENIZER)
        if known.get_vocab() != self.tokenizer.get_vocab():
            raise UserError(f"{folder} was trained with another vocabulary; train from nothing")
        clip = CLIPModel.from_pretrained(place / "clip", local_files_only=True)
        copy_weights(clip, self.module.clip, str(place / "clip"))


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of an export; UserError when there is none."""
    from transformers import CLIPTokenizer

    if not folder.is_dir():
        raise UserError(
            f"{folder.parent} holds no {TOKENIZER}/; expected an export of `train clip`"
        )
    found: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return found


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
