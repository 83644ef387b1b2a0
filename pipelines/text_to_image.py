"""Prompt to picture: request → context → noise → steps → decode (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from latentdiff.conditioning.guidance import GuidedDenoiser, Predict
from latentdiff.conditioning.text import Long, context_mask, encode, encode_prompts, tokenize
from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models import geometry
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.bundle import Bundle
from latentdiff.models.denoiser import Denoiser
from latentdiff.models.lora.stack import LoraReport, LoraStack
from latentdiff.pipelines.batch import (
    Batch,
    Picture,
    PipelineStep,
    TextToImageResult,
    batches,
    in_order,
    warn_of,
)
from latentdiff.pipelines.notes import dropped_words, lost
from latentdiff.pipelines.recipe import Recipe
from latentdiff.pipelines.request import Given, Request, as_list, draw_seed, several, with_latents
from latentdiff.pixels import to_images
from latentdiff.sampling import SeededNoise, check_finite, denoise
from latentdiff.schedulers import interop
from latentdiff.schedulers.protocol import Scheduler

DEFAULT_STEPS = 50
DEFAULT_GUIDANCE = 7.5
DEFAULT_BATCH = 4
DECODE_AT_ONCE = 8

OnStep = Callable[[PipelineStep], None]
"""Called after every step, for progress and previews; what it raises stops the drawing."""


class TextToImagePipeline:
    """Draws pictures from prompts with the parts of a bundle.

    Seed s means the noise of `torch.Generator("cpu").manual_seed(s)` for each picture alone: its
    x_T first, then its step noise, in float32, whatever the batch and the device.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.autoencoder = Autoencoder(bundle.vae)
        self.geometry = geometry.of_configs(bundle.vae.config, bundle.unet.config)
        self.loras = LoraStack(bundle)

    @classmethod
    def from_pretrained(
        cls,
        name_path_or_hub_id: str | Path,
        *,
        dtype: torch.dtype | None = torch.float32,
        device: torch.device | str = "cpu",
        variant: str | None = None,
    ) -> Self:
        """Load "snowglobe", a folder in diffusers format, or a hub id (only then the network).

        dtype: of all networks, None keeps what is stored. Raises UserError, one line.
        """
        bundle = bundles.load(name_path_or_hub_id, dtype=dtype, device=device, variant=variant)
        warn_of(bundle.notes, stacklevel=2)
        return cls(bundle)

    def load_lora(self, where: str | Path, scale: float = 1.0) -> LoraReport:
        """Add a LoRA file to the weights, `scale` times, on top of those already loaded.

        The bundle's networks change in place. `self.loras` sets scales, takes LoRAs out again and
        leaves the weights as they were, bit by bit. What the user should know is warned of.
        """
        report = self.loras.load(where, scale)
        warn_of(report.lines(), stacklevel=2)
        return report

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] = "",
        num_images_per_prompt: int = 1,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        scheduler: str | Scheduler | None = None,
        eta: float = 0.0,
        clip_skip: int = 0,
        long_prompts: Long = "truncate",
        latents: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> TextToImageResult:
        """Draw the pictures of one or several prompts in one batch.

        The arguments are the fields of `Request`, and besides: negative_prompt: one, or one each.
        num_images_per_prompt: pictures for each prompt. seed: of the first picture, the k-th has
        seed + k; seeds: one a picture; neither: drawn, and reported. scheduler: a name ("ddim",
        "ddpm", "euler", "dpmsolver++", "unipc", a diffusers class …) or a ready one. latents: x_T
        (B, C, h, w) of unit variance in place of the seeds' first draw. on_step: see `draw`.
        """
        ready = None if scheduler is None or isinstance(scheduler, str) else scheduler
        template = Request(
            prompt="",
            seed=seed,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            scheduler=scheduler if isinstance(scheduler, str) else None,
            eta=eta,
            clip_skip=clip_skip,
            long_prompts=long_prompts,
            given=None if ready is None else Given(scheduler=ready),
        )
        requests = several(
            template,
            as_list(prompt),
            negative_prompts=as_list(negative_prompt),
            num_images_per_prompt=num_images_per_prompt,
            seeds=seeds,
        )
        if latents is not None:
            requests = with_latents(requests, latents)
        dropped = dropped_words(self.bundle.tokenizer, requests)
        warn_of(lost(dropped), stacklevel=2)
        pictures = tuple(self.draw(requests, batch_size=len(requests), on_step=on_step))
        return TextToImageResult(
            pictures=pictures,
            latents=torch.stack([picture.latents for picture in pictures]),
            dropped_words=dropped,
        )

    def draw(
        self,
        requests: Sequence[Request],
        *,
        batch_size: int = DEFAULT_BATCH,
        on_step: OnStep | None = None,
    ) -> Iterator[Picture]:
        """Draw any number of requests; commands, sample sheets and measurements all draw by this.

        All requests are checked when this is called; then pictures come in the requests' order,
        those that can share a batch drawn together, at most `batch_size` at once. Each equals the
        one drawn alone. on_step: called after every step of a batch. Leaving the iterator, or an
        error from `on_step`, stops the drawing. Raises UserError for what cannot be done.
        """
        resolved = self.resolve(requests)
        parts = batches(resolved, batch_size)
        return in_order(((part, self._draw(part, on_step)) for part in parts), len(resolved))

    def _draw(self, batch: Batch, on_step: OnStep | None) -> list[Picture]:
        for step in self.walk(batch):
            latents = step.latents
            if on_step is not None:
                on_step(step)
        images = self.decode(latents)
        return [
            Picture(image=image, latents=row, recipe=self.recipe(request))
            for image, row, request in zip(images, latents, batch.requests, strict=True)
        ]

    def stream(self, requests: Request | Sequence[Request]) -> Iterator[PipelineStep]:
        """The walk of one batch, yielding after every step; it can be left at any of them.

        The requests are checked when this is called, and must be of one size, scheduler and so on.
        `step.previews()` are cheap pictures; `pipe.decode(step.x_0)` are the real ones.
        """
        resolved = self.resolve([requests] if isinstance(requests, Request) else requests)
        parts = batches(resolved, max(1, len(resolved)))
        if len(parts) != 1:
            raise UserError(
                f"these requests make {len(parts)} batches; a stream takes one: give requests of "
                "one size, steps, guidance and scheduler, or use draw"
            )
        return self.walk(parts[0])

    def walk(self, batch: Batch) -> Iterator[PipelineStep]:
        """Context, noise and steps of a batch of resolved requests; `decode` is what follows."""
        request, device = batch.shared, self.bundle.unet.device
        assert request.height is not None and request.width is not None

        # 1. Context: what the prompts mean to the network, the negative ones first.
        context, mask = self._context(batch)
        denoiser: Predict = Denoiser(
            self.bundle.unet, self.bundle.scheduler_config.prediction_type, mask
        )
        if request.guidance.active:
            denoiser = GuidedDenoiser(denoiser, request.guidance)

        # 2. Noise: x_T of unit variance, each picture's from its own seed.
        shape = self.geometry.latent_shape(request.height, request.width)
        noise = SeededNoise(batch.seeds, shape, device)
        given = [r.given.latents for r in batch.requests if r.given and r.given.latents is not None]
        unit = torch.stack(given).to(device, torch.float32) if given else noise.draw()

        # 3. Steps: from x_T to x_0, by the scheduler.
        scheduler = self._scheduler(request)
        x_T = unit * scheduler.init_noise_sigma
        steps = denoise(denoiser, scheduler, x_T, context=context, noise=noise.draw)
        preview, factor = self.bundle.preview, self.geometry.factor
        while True:
            # Not held across a yield: the caller's own code between steps keeps its gradients.
            with torch.no_grad():
                step = next(steps, None)
            if step is None:
                return
            yield PipelineStep(
                step.index, step.total, step.t, step.x, step.x_0, batch.places, preview, factor
            )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of scaled latents (B, C, h, w); UserError when the decoder gives NaN."""
        images: list[Image.Image] = []
        for part in latents.split(DECODE_AT_ONCE):
            pixels = self.autoencoder.decode(part.to(self.autoencoder.dtype))
            check_finite(pixels, "the autoencoder's decoder", "while decoding")
            images += to_images(pixels)
        return images

    def resolve(self, requests: Sequence[Request]) -> list[Request]:
        """The requests with this model's defaults filled in and seeds drawn, all checked."""
        checked: set[tuple[object, ...]] = set()
        found = []
        for request in requests:
            resolved = self._resolve(request)
            key = resolved.batch_key()
            if key not in checked:  # a scheduler's tables are built once a kind, not a picture
                self._scheduler(resolved)
                checked.add(key)
            found.append(resolved)
        return found

    def _resolve(self, request: Request) -> Request:
        given = request.given or Given()
        if given.lost:
            raise UserError(
                f"this was drawn from {' and '.join(given.lost)} given in Python, "
                "which no file keeps: it cannot be drawn again"
            )
        own = self.geometry.own_size or (None, None)
        height, width = request.height or own[0], request.width or own[1]
        if height is None or width is None:
            raise UserError("the model does not say its size; give height and width")
        self.geometry.check_size(height, width)
        if given.latents is not None:
            _check_latents(given.latents, self.geometry.latent_shape(height, width))
        scale = request.guidance_scale
        return replace(
            request,
            seed=draw_seed() if request.seed is None else request.seed,
            height=height,
            width=width,
            num_inference_steps=self._steps(request),
            guidance_scale=self.default_guidance_scale if scale is None else scale,
            scheduler=None
            if given.scheduler
            else request.scheduler or self.bundle.scheduler_config.class_name,
        )

    def _steps(self, request: Request) -> int:
        """The number of steps that is asked of the scheduler; Heun's grid has more."""
        asked = request.num_inference_steps
        if request.given is not None and request.given.scheduler is not None:
            own = len(request.given.scheduler.grid())
            if asked not in (None, own):
                raise UserError(f"a ready scheduler has its own steps, {own}; leave {asked} out")
            return own
        steps = self.default_steps if asked is None else asked
        most = self.bundle.scheduler_config.num_train_timesteps
        if steps > most:
            raise UserError(f"{steps} steps are out of range; expected 1 … {most}")
        return steps

    def _scheduler(self, request: Request) -> Scheduler:
        """A fresh scheduler for one walk of a resolved request."""
        if request.given is not None and request.given.scheduler is not None:
            return request.given.scheduler
        config = self.bundle.scheduler_config
        return interop.build(
            request.scheduler, config, request.num_inference_steps, eta=request.eta
        )

    def _context(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Context (B, L, D), or (2B, L, D) with the negative prompts first, in one text call; and
        the mask of what is only filled up in it, where prompts take different numbers of chunks."""
        tokenizer, encoder = self.bundle.tokenizer, self.bundle.text_encoder
        skip, mask = batch.shared.clip_skip, None
        if batch.shared.long_prompts == "chunk":
            tokens = tokenize(tokenizer, batch.texts(), long="chunk")
            context = encode(encoder, tokens.input_ids, clip_skip=skip)
            mask = context_mask(tokens)
        else:
            context = encode_prompts(tokenizer, encoder, batch.texts(), clip_skip=skip)
        check_finite(context, "the text encoder", "for these prompts")
        return context, mask

    def recipe(self, request: Request) -> Recipe:
        """What makes the picture of a resolved request again, with these weights as they are."""
        return Recipe(
            request=request,
            model=self._model_name,
            weights_sha256=dict(self.bundle.hashes),
            loras=tuple(self.loras.recipe()),
            dtype=str(self.bundle.unet.dtype).removeprefix("torch."),
            device=str(self.bundle.unet.device),
            versions=self._versions,
        )

    @cached_property
    def default_steps(self) -> int:
        """Steps when none are asked for: the model's own, or 50."""
        own = self.bundle.card.get("num_inference_steps", DEFAULT_STEPS)
        if isinstance(own, bool) or not isinstance(own, int) or own < 1:
            raise UserError(f"the model's num_inference_steps is {own!r}; a whole number expected")
        return own

    @cached_property
    def default_guidance_scale(self) -> float:
        """Guidance when none is asked for: the model's own, or 7.5."""
        scale = self.bundle.card.get("guidance_scale", DEFAULT_GUIDANCE)
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            raise UserError(f"the model's guidance_scale is {scale!r}; a number was expected")
        return float(scale)

    @cached_property
    def _versions(self) -> dict[str, str]:
        return {p: version(p) for p in ("latentdiff", "torch", "diffusers", "transformers")}

    @cached_property
    def _model_name(self) -> str:
        source = self.bundle.source
        if not source:
            return "in memory"
        built_in = Path(bundles.folders.__file__).parents[1] / "assets"
        path = Path(source)
        return path.name if path.parent == built_in else source


def _check_latents(latents: Tensor, shape: tuple[int, int, int]) -> None:
    """UserError unless these are one picture's x_T."""
    if tuple(latents.shape) != shape:
        raise UserError(f"latents have shape {tuple(latents.shape)}; expected {shape}")
    if not bool(torch.isfinite(latents).all()):
        raise UserError("the given latents hold NaN or infinity")
