"""The text-to-image task: a U-Net learns the noise ε_θ(x_t, t, c) of latents, given a caption.

Tokenizer, text encoder and autoencoder are frozen, unless the text encoder is trained too. With a
latent cache the noisy latents are made in the data-loader workers, in float64 on the CPU, and the
device sees only (x_t, t, target, weight, tokens); without one, pictures travel and are encoded on
the device.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentdiff import seeding
from latentdiff.conditioning import text
from latentdiff.data.captions import static
from latentdiff.data.rendered.scene_pictures import PoolPictures, open_pictures
from latentdiff.diffusion import objective
from latentdiff.diffusion.objective import Noising
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.bundle import Bundle
from latentdiff.models.learned_word import save_word
from latentdiff.models.lora.layers import require_peft, save_lora
from latentdiff.sheet import boxes, contact_sheet
from latentdiff.training.context import RunContext
from latentdiff.training.feeds.caption_tokens import CaptionTokens
from latentdiff.training.feeds.encode_cache import CacheSettings, Encoders
from latentdiff.training.feeds.feed import Feed, Samples
from latentdiff.training.feeds.own import open_own_images
from latentdiff.training.feeds.scenes import SceneFeed, open_pool_latents
from latentdiff.training.feeds.settings import FeedSettings
from latentdiff.training.frozen import Frozen
from latentdiff.training.paired_losses import PairedLosses
from latentdiff.training.task import Sheet
from latentdiff.training.tasks.text_to_image.exports import (
    how_to_load,
    initialise,
    metadata_of,
    save_model,
)
from latentdiff.training.tasks.text_to_image.module import Batch, UNetModule
from latentdiff.training.tasks.text_to_image.networks import (
    geometry_of,
    image_size,
    load_networks,
)
from latentdiff.training.tasks.text_to_image.pairs import FixedPairs
from latentdiff.training.tasks.text_to_image.text_to_image_config import TextToImageConfig

COLUMNS, GAP = 4, 2
"""Of the sample sheets; pixels between pictures and around them."""
Draw = Callable[
    [Bundle, Sequence[str], Sequence[int], int | None, float | None, text.Long], list[Image.Image]
]
"""(model, prompts, seeds, steps, guidance, long prompts) -> pictures: what `generate` does."""


def side_by_side(contexts: Sequence[NDArray[np.float32]]) -> Batch:
    """context (B, k·L, D) of contexts that differ in chunks, and the mask of what was filled up."""
    longest = max(len(context) for context in contexts)
    out = np.zeros((len(contexts), longest, contexts[0].shape[1]), np.float32)
    mask = np.zeros((len(contexts), longest), bool)
    for k, context in enumerate(contexts):
        out[k, : len(context)] = context
        mask[k, : len(context)] = True
    made = {"context": torch.from_numpy(out)}
    return made if mask.all() else {**made, "context_mask": torch.from_numpy(mask)}


class TextToImageTask:
    """Trains `UNet2DConditionModel` on captioned pictures; see `latentdiff.training.task.Task`.

    draw: makes the pictures of the sample sheets; without it there are none. (A pipeline stands on
    a floor above this one, so it is handed in.)
    """

    name = "text-to-image"

    def __init__(
        self, config: TextToImageConfig, context: RunContext, draw: Draw | None = None
    ) -> None:
        config.refuse_nameless_word()
        if config.method == "lora":
            require_peft()
        if context.kept is None:
            config.pictures.refuse_missing()
        self.config, self.draw, self.run = config, draw, context.folder
        self.seed = config.train.seed
        self.networks = load_networks(config)
        self.schedule = self.networks.scheduler_config.noise_schedule()
        self.noising = Noising(
            self.schedule,
            prediction_type=self.networks.scheduler_config.prediction_type,
            weighting=config.weighting,
            gamma=config.min_snr_gamma,
        )
        self.tokens = CaptionTokens(self.networks.tokenizer, long=config.captions.long_captions)
        self.frozen = Frozen(self.networks.text_encoder, self.networks.vae, self.schedule)
        self.module = UNetModule(
            self.networks.unet,
            self.noising,
            self.frozen,
            self.networks.text_encoder if config.learns_text else None,
        )
        self._feed: Feed | None = None
        self._pairs: FixedPairs | None = None

    @property
    def feed(self) -> Feed:
        """The data; opened before."""
        assert self._feed is not None, "the data are not open"
        return self._feed

    def open_data(self, context: RunContext) -> None:
        """Scenes, or the user's images: listed, measured, and encoded where there is a cache."""
        if self.config.pictures.data is None:
            self._feed = self._scenes()
            summary = self._feed.summary
            context.say(f"no --data: {summary['source']}, {summary['pictures']}")
            return
        self._feed = open_own_images(
            self._feed_settings(),
            context,
            tokenizer=self.networks.tokenizer,
            cache=self._cache_settings(context.device),
        )

    def _scenes(self) -> SceneFeed:
        config, size = self.config, image_size(self.networks)
        images = open_pictures(pool=config.pool, rows=0, world_seed=config.world_seed, size=size)
        latents = None
        if config.cache is not None:
            assert isinstance(images, PoolPictures)
            latents = open_pool_latents(config.cache, images, self.networks.vae)
        return SceneFeed(
            images,
            world_seed=config.world_seed,
            validation_seed=config.validation_seed,
            seed=self.seed,
            caption_dropout=config.captions.caption_dropout,
            latents=latents,
        )

    def _feed_settings(self) -> FeedSettings:
        return FeedSettings(
            data=self.config.pictures,
            captions=self.config.words_of_captions,
            need_captions=self.config.method != "embedding",
            crop=self.config.crop,
            size=image_size(self.networks, self.config.pictures.sizes.resolution),
            multiple=geometry_of(self.networks).coarsest,
            seed=self.seed,
            batch_size=self.config.train.batch_size,
            most_held_out=self.config.validation_pictures,
        )

    def _cache_settings(self, device: torch.device) -> CacheSettings | None:
        config = self.config
        if config.cache is None:
            return None
        fixed_texts = static(config.captions) and not config.learns_text
        encoders = Encoders(
            vae=self.networks.vae,
            text_encoder=self.networks.text_encoder,
            tokenizer=self.networks.tokenizer,
            device=device,
            long_captions=config.captions.long_captions,
        )
        return CacheSettings(
            folder=config.cache,
            encoders=encoders,
            contexts=fixed_texts and config.cache_contexts,
        )

    @property
    def summary(self) -> dict[str, Any]:
        """What is trained on what, for the run's report."""
        return {**self.feed.summary, "base": self.config.base or "none, from nothing"}

    @property
    def fingerprint(self) -> str:
        """Of the data; a run goes on with the same only."""
        return self.feed.fingerprint

    def prepare(self, device: torch.device) -> None:
        """Move the frozen networks to the device."""
        self.frozen.to(device)

    def batch(self, positions: Sequence[int]) -> Batch:
        """x_t, target (B, C, h, w), t (B,), weight (B,) where latents are cached; otherwise
        images (B, H, W, 3) uint8, posterior, eps (B, C, h, w) and t. Always input_ids (B, L), or
        context (B, L, D) where that is cached."""
        samples = self.feed.samples(positions)
        t = self._timesteps(positions)
        shape = self._latent_shape(samples)
        eps = self._noise("eps", positions, shape)
        if self.config.offset_noise:
            shift = self._noise("offset noise", positions, (shape[0], 1, 1))
            eps = eps + self.config.offset_noise * shift
        posterior = self._noise("posterior", positions, shape)
        if samples.moments is None:
            assert samples.images is not None
            images = torch.from_numpy(samples.images)
            made = {"images": images, "posterior": posterior, "eps": eps, "t": t}
        else:
            moments = torch.from_numpy(samples.moments)
            made = self.noising(Autoencoder(self.networks.vae).sample(moments, posterior), eps, t)
        if samples.contexts is not None:
            return {**made, **side_by_side(samples.contexts)}
        return {**made, **self.tokens.inputs(samples.captions)}

    def sample_names(self, positions: Sequence[int]) -> list[str]:
        """What a report calls the samples at these positions."""
        return self.feed.names(positions)

    def _latent_shape(self, samples: Samples) -> tuple[int, int, int]:
        if samples.moments is not None:
            channels, height, width = samples.moments.shape[1:]
            return channels // 2, height, width
        assert samples.images is not None
        return geometry_of(self.networks).latent_shape(*samples.images.shape[1:3])

    def _timesteps(self, positions: Sequence[int]) -> Tensor:
        u = [seeding.uniform(self.seed, "timestep", position) for position in positions]
        return objective.sample_timesteps(
            torch.tensor(u, dtype=torch.float64),
            torch.tensor(list(positions)),
            self.schedule.num_train_timesteps,
            method=self.config.timesteps,
            shift=self.config.timestep_shift,
        )

    def _noise(self, purpose: str, addresses: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
        out = np.empty((len(addresses), *shape), np.float32)
        for k, address in enumerate(addresses):
            draw = seeding.generator(self.seed, purpose, address)
            draw.standard_normal(dtype=np.float32, out=out[k])
        return torch.from_numpy(out)

    @torch.no_grad()
    def validate(self, module: UNetModule, step: int) -> PairedLosses:
        """The loss of fixed pairs, of held-out pictures and of some that are trained on."""
        if self._pairs is None:
            count = self.config.validation_pictures
            self._pairs = FixedPairs(
                {"held-out": self.feed.held_out(count), "train": self.feed.trained(count)},
                pairs=self.config.validation_pairs,
                seed=self.config.validation_seed,
                timesteps=self.schedule.num_train_timesteps,
            )
        return self._pairs.losses(module, self.tokens)

    def sheet(self, module: UNetModule, step: int) -> Sheet | None:
        """The sheet's prompts, seeds 0, 1, …, in rows of four, drawn as `generate` draws."""
        if self.draw is None:
            return None
        prompts = self.config.sheet_prompts or self.feed.prompts()
        seeds = range(len(prompts))
        steps, guidance = self.config.sheet_steps, self.config.sheet_guidance
        long: text.Long = "chunk" if self._chunks else "truncate"
        images = self.draw(self._bundle(module), prompts, seeds, steps, guidance, long)
        commands = [self._command(self.run, p, s) for p, s in zip(prompts, seeds, strict=True)]
        return Sheet(
            image=contact_sheet([np.asarray(image) for image in images], COLUMNS, GAP),
            prompts=tuple(prompts),
            commands=tuple(commands),
            boxes=tuple(boxes(len(images), images[0].size, COLUMNS, GAP, GAP)),
        )

    def try_out(self, export: Path) -> str:
        """A command that draws with what the run leaves."""
        prompt = next(iter(self.config.sheet_prompts or self.feed.prompts()), "")
        return shlex.join(["latentdiff", "generate", prompt, *how_to_load(self.config, export)])

    def _command(self, run: Path, prompt: str, seed: int) -> str:
        """What draws one picture of the sheet again while RUN/export has that step's weights."""
        words = ["latentdiff", "generate", prompt, "--seed", str(seed)]
        words += how_to_load(self.config, run / "export")
        if self.config.sheet_steps is not None:
            words += ["--steps", str(self.config.sheet_steps)]
        if self.config.sheet_guidance is not None:
            words += ["--guidance-scale", str(self.config.sheet_guidance)]
        words += ["--long-prompts", "chunk"] if self._chunks else []
        return shlex.join(words)

    @property
    def _chunks(self) -> bool:
        return self.config.captions.long_captions == "chunk"

    def _bundle(self, module: UNetModule) -> Bundle:
        """The whole model with this module's weights."""
        trained = module.text_encoder
        encoder = self.networks.text_encoder if trained is None else trained
        return dataclasses.replace(
            self.networks, unet=module.unet, text_encoder=encoder, source="", hashes={}
        )

    def export(self, module: UNetModule, folder: Path) -> None:
        """Write a whole model that `generate --model` and diffusers open, or the LoRA's or word's
        files."""
        self.exporter(module)(folder)

    def exporter(self, module: UNetModule) -> Callable[[Path], object]:
        """What writes them, in whatever thread: what it takes from the data is read now."""
        if self.config.method == "full":
            bundle, words = self._bundle(module), self.feed.words()
            return lambda folder: save_model(bundle, folder, words=words)
        metadata = metadata_of(self.config, self.networks, self.feed)
        if self.config.method == "lora":
            return lambda folder: save_lora(folder, module.unet, module.text_encoder, metadata)
        encoder, word = module.text_encoder, self.config.embedding
        assert encoder is not None
        return lambda folder: save_word(folder, encoder, word, metadata)

    def initialise(self, folder: Path) -> None:
        """Load the weights of an exported model (or `unet/`), or of an exported LoRA."""
        initialise(self.module, self.config, folder)
