"""Settings of a text-to-image run: what is trained, from where, on what, towards what."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from latentdiff.data.captions import CaptionConfig
from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.prediction_types import Prediction
from latentdiff.errors import UserError
from latentdiff.models.learned_word import EmbeddingConfig
from latentdiff.models.lora.layers import LoraConfig
from latentdiff.schedulers.scheduler_config import SchedulerConfig
from latentdiff.training.feeds.data_config import DataConfig
from latentdiff.training.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class TextToImageConfig:
    """What the U-Net learns from, and what it is asked to predict."""

    HELP_FIRST: ClassVar[tuple[str, ...]] = (
        *("data", "base", "method", "run_dir", "steps", "batch_size", "learning_rate"),
        *("resolution", "cache", "resume"),
    )
    HELP_GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "What is learnt": (
            *("train_text_encoder", "prediction_type", "weighting", "min_snr_gamma"),
            *("offset_noise", "timesteps", "timestep_shift", "zero_terminal_snr"),
        ),
        "Training from nothing": (
            *("model", "vae", "clip", "num_train_timesteps", "beta_schedule", "beta_start"),
            "beta_end",
        ),
        "Scenes, where no data are given": ("world_seed", "pool", "validation_seed"),
        "Speed and memory": ("cache_contexts", "gradient_checkpointing"),
        "Validation and sample sheets": (
            *("validation_pictures", "validation_pairs", "sheet_prompts", "sheet_steps"),
            "sheet_guidance",
        ),
    }

    HELP_PRESETS: ClassVar[dict[str, str]] = {
        "cpu": "the embedded model's recipe, from nothing.",
        "h100": "a larger one, from nothing on one GPU.",
        "tiny": "three steps of a toy, to see that all works.",
        "full": "all weights of --base on your images.",
        "lora": "a LoRA beside --base on your images.",
        "embedding": "one new word of --base on a few of your images; with --token, --init-word.",
    }

    base: str | None = None
    """Model to fine-tune: snowglobe, a diffusers folder, or a hub id. Without one, train from
    nothing."""
    method: Literal["full", "lora", "embedding"] = "full"
    """Train all weights of the U-Net, a LoRA beside them, or the vectors of one new word."""
    train_text_encoder: bool = False
    """Teach the text encoder too, by the same method: for words that it never met. Texts are then
    encoded anew in every step, which takes longer."""
    model: str = "snowglobe"
    """From nothing: sizes of the networks, a preset of `latentdiff.models.presets`."""
    vae: Path | None = None
    """From nothing: the autoencoder, an export of `train vae` or a diffusers `vae/` folder."""
    clip: Path | None = None
    """From nothing: folder with `text_encoder/` and `tokenizer/`, such as a `train clip` export."""
    world_seed: int = 0
    """World of the training scenes, where no data are given."""
    pool: Path | None = None
    """Folder of rendered scenes; without one, scenes are rendered as they are needed."""
    cache: Path | None = None
    """Latent cache, of the pool or of your data; without one, pictures are encoded every time."""
    cache_contexts: bool = True
    """Keep the text encoder's work in the cache of your data too; it is a small part of the time
    and, with a large text encoder, most of the disk."""
    crop: Literal["center", "random"] = "center"
    """Where what does not fit is cut. A latent cache holds one crop, so it needs center."""
    pictures: DataConfig = field(default_factory=DataConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    num_train_timesteps: int = 1000
    """From nothing: T, the number of forward steps. A base brings its own schedule."""
    beta_schedule: str = "scaled_linear"
    """From nothing: name of the noise schedule."""
    beta_start: float = 0.00085
    """From nothing: β of the first step."""
    beta_end: float = 0.020
    """From nothing: β of the last step."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that x_T is pure noise (Lin et al. 2023); not with epsilon."""
    prediction_type: Prediction | None = None
    """What the U-Net predicts. By default what the base does, epsilon from
    nothing."""
    weighting: str = "min_snr"
    """Weight of a timestep's loss: simple, min_snr, or one of the variational ones."""
    min_snr_gamma: float = 5.0
    """γ of min-SNR (Hang et al. 2023)."""
    offset_noise: float = 0.0
    """Standard deviation of a constant added to each channel's noise (Guttenberg 2023); 0: none."""
    timesteps: Literal["uniform", "stratified"] = "stratified"
    """How timesteps are drawn: independent, or spread evenly over neighbouring samples."""
    timestep_shift: float = 1.0
    """Above 1, noisy timesteps, where the subject is decided, are visited more often: u becomes
    s u / (1 + (s - 1) u) (Esser et al. 2024). Validation stays uniform."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    validation_pictures: int = 64
    """Held-out pictures, and as many of the training ones, in each validation."""
    validation_pairs: int = 128
    """Fixed (picture, t, ε) pairs of each of the two groups."""
    validation_seed: int = 1_000_003
    """World of the validation scenes."""
    sheet_prompts: tuple[str, ...] = ()
    """Prompts of the sample sheet, seeds 0, 1, …; by default eight scenes, or held-out captions."""
    sheet_steps: int | None = None
    """DDIM steps of the sample sheet; by default the model's own number."""
    sheet_guidance: float | None = None
    """Guidance scale of the sample sheet; by default the model's own."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            batch_size=32, learning_rate=6e-4, warmup_steps=500, ema_decay=0.9995
        )
    )

    def __post_init__(self) -> None:
        if self.base is not None and (self.vae or self.clip):
            raise UserError(
                "a base brings its own autoencoder and text encoder: leave out --vae and --clip"
            )
        if self.method == "lora" and self.base is None:
            raise UserError("a LoRA needs a model to stand beside: give --base")
        if self.train_text_encoder and self.base is None:
            raise UserError("train_text_encoder goes with --base; from nothing, use `train clip`")
        word = self.embedding
        if self.method != "embedding" and (word.token or word.init_word):
            raise UserError("a token is taught by --method embedding alone: give that too")
        if self.method == "embedding" and self.train_text_encoder:
            raise UserError("--method embedding teaches one word: leave out --train-text-encoder")
        own = self.pictures.data is not None
        if own and self.pool is not None:
            raise UserError("both --data and --pool were given; give one")
        if self.cache is not None and self.pool is None and not own:
            raise UserError("a latent cache needs the pool that it was made from: give --pool too")
        if self.cache is not None and own:
            if self.crop == "random":
                raise UserError("a latent cache holds one crop of a picture: use --crop center")
            if self.pictures.stream:
                raise UserError("a stream is read once and not cached: leave out --cache")
        if self.validation_seed == self.world_seed:
            raise UserError("validation_seed equals world_seed: scenes would not be unseen")
        if self.validation_pictures < 1 or self.validation_pairs < 1:
            raise UserError("validation_pictures and validation_pairs must be at least 1")
        if not self.timestep_shift > 0:
            raise UserError(f"timestep_shift is {self.timestep_shift}, expected above 0")
        if self.offset_noise < 0:
            raise UserError(f"offset_noise is {self.offset_noise}, expected at least 0")
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            refuse_epsilon()

    def refuse_nameless_word(self) -> None:
        """UserError where a word is to be taught and what that needs is not all given."""
        if self.method != "embedding":
            return
        if self.base is None or self.pictures.data is None:
            raise UserError("a word is taught to a model by pictures: give --base and --data")
        if not self.embedding.token or not self.embedding.init_word:
            raise UserError(
                "a word needs its name and what it starts from: give --token and --init-word, "
                'such as --token "<my-cat>" --init-word cat'
            )

    @property
    def learns_text(self) -> bool:
        """Whether the context of a caption changes with the training."""
        return self.train_text_encoder or self.method == "embedding"

    @property
    def words_of_captions(self) -> CaptionConfig:
        """What becomes of captions; a word that is taught stands in every one."""
        trigger, token = self.captions.trigger_words, self.embedding.token
        if self.method != "embedding" or token in trigger:
            return self.captions
        return replace(self.captions, trigger_words=f"{token}, {trigger}".removesuffix(", "))

    def scheduler_config(self, base: SchedulerConfig | None = None) -> SchedulerConfig:
        """The scheduler config that samples from this training; `base` is the base model's."""
        found = base or SchedulerConfig(
            class_name="DDIMScheduler",
            num_train_timesteps=self.num_train_timesteps,
            beta_schedule=self.beta_schedule,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            timestep_spacing="trailing",
            steps_offset=1,
            clip_sample=False,
        )
        if self.prediction_type is not None:
            found = replace(found, prediction_type=self.prediction_type)
        if self.zero_terminal_snr:
            found = replace(found, rescale_betas_zero_snr=True, timestep_spacing="trailing")
        if found.rescale_betas_zero_snr and found.prediction_type == "epsilon":
            refuse_epsilon()
        return found

    def schedule(self) -> NoiseSchedule:
        """The forward process of a training from nothing."""
        return self.scheduler_config().noise_schedule()


def refuse_epsilon() -> None:
    """Under zero terminal SNR, x_T says nothing about ε's complement: x_0 = (x_T − ε) / 0."""
    raise UserError(
        "zero_terminal_snr does not go with epsilon, which would be divided by √ᾱ_T = 0; "
        "use --prediction-type v_prediction"
    )


# At the last timestep of this schedule √ᾱ is 0.015: a small error in ε becomes a large one in x_0,
# and a young ε-model draws pictures as bright as x_T's mean. A v-model predicts -x_0 there.
SNOWGLOBE: dict[str, Any] = {"prediction_type": "v_prediction", "weighting": "simple"}

PRESETS: dict[str, TextToImageConfig] = {
    "cpu": TextToImageConfig(
        **SNOWGLOBE,
        validation_pictures=32,
        validation_pairs=64,
        sheet_guidance=2.5,
        timestep_shift=2.0,
        train=TrainConfig(
            batch_size=16,
            optimizer="muon",
            learning_rate=1e-3,
            muon_learning_rate=0.015,
            muon_weight_decay=0.1,
            ema_decay=0.998,
            decay_fraction=0.3,
            decay_shape="linear",
            channels_last=True,
            validate_every=500,
            sheet_every=500,
        ),
    ),
    "h100": TextToImageConfig(
        model="snowglobe-wide",
        **SNOWGLOBE,
        validation_pictures=256,
        validation_pairs=256,
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
        validation_pairs=8,
        sheet_steps=2,
        train=TrainConfig(batch_size=4, steps=3, warmup_steps=1, tensorboard=False, log_every=1),
    ),
    "full": TextToImageConfig(
        base="snowglobe",
        train=TrainConfig(
            batch_size=16,
            steps=2000,
            learning_rate=1e-5,
            warmup_steps=100,
            ema_decay=0.999,
            channels_last=True,
            validate_every=250,
            sheet_every=250,
        ),
    ),
    "lora": TextToImageConfig(
        base="snowglobe",
        method="lora",
        train=TrainConfig(
            batch_size=4,
            steps=1000,
            learning_rate=1e-4,
            warmup_steps=20,
            ema_decay=0.99,
            channels_last=True,
            validate_every=100,
            sheet_every=100,
        ),
    ),
    # diffusers' and A1111's habit: no dropped captions, no decay, a large rate for few numbers.
    "embedding": TextToImageConfig(
        base="snowglobe",
        method="embedding",
        captions=CaptionConfig(caption_dropout=0.0),
        train=TrainConfig(
            batch_size=4,
            steps=1000,
            learning_rate=5e-3,
            weight_decay=0.0,
            warmup_steps=20,
            ema_decay=0.99,
            validate_every=100,
            sheet_every=100,
        ),
    ),
}
