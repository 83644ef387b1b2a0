"""Prompt to picture: request → context → noise → steps → decode (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

import latentdiff.pipelines.from_pictures.tiling as tiling
import latentdiff.pipelines.from_pictures.upscaling as upscaling
import latentdiff.pipelines.planning as planning
import latentdiff.pipelines.walk.embeds as embeds
import latentdiff.pipelines.walk.prompting as prompting
from latentdiff import devices
from latentdiff.conditioning.guidance import Predict
from latentdiff.conditioning.settings import Long, Syntax
from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models import card, geometry, weight_hashes
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.bundle import Bundle
from latentdiff.models.denoiser import ready_unet
from latentdiff.models.lora.stack import LoraReport, LoraStack
from latentdiff.models.model_folder import short_name
from latentdiff.pipelines.from_pictures.blending import blended, far_end
from latentdiff.pipelines.from_pictures.sources import canvas_of
from latentdiff.pipelines.planning import Parts
from latentdiff.pipelines.recipes.recipe import Recipe, versions_of
from latentdiff.pipelines.request import Given, Request, as_list, draw_seed, several, with_latents
from latentdiff.pipelines.request_records import Blend, Inpaint, Source, Upscale
from latentdiff.pipelines.walk.batch import (
    Batch,
    Picture,
    PipelineStep,
    TextToImageResult,
    batches,
    in_order,
    warn_of,
)
from latentdiff.pipelines.walk.faults import naming_bad_weights
from latentdiff.pipelines.walk.legs import advance, walk
from latentdiff.pipelines.walk.notes import dropped_words, lost
from latentdiff.pixels import to_images
from latentdiff.sampling import ContextAt, check_finite
from latentdiff.schedulers.protocol import Scheduler

DEFAULT_BATCH = 4
DECODE_AT_ONCE = 8

OnStep = Callable[[PipelineStep], Tensor | None]
"""Called after every step, for progress and previews; what it raises stops the drawing, latents
that it returns take the place of the step's."""


class TextToImagePipeline:
    """Draws pictures from prompts with the parts of a bundle.

    Seed s means the noise of `torch.Generator("cpu").manual_seed(s)` for each picture alone: its
    x_T first, then its step noise, in float32, whatever the batch and the device.
    """

    def __init__(self, bundle: Bundle, *, backend: devices.Backend = "torch") -> None:
        """backend: who computes the U-Net's steps; "openvino" is an optional extra, for the CPU."""
        self.bundle = bundle
        self.backend = backend
        self.autoencoder = Autoencoder(bundle.part("vae"))
        self.unet = ready_unet(bundle.part("unet"), backend)
        self.geometry = geometry.of_configs(bundle.light.vae.config, bundle.light.unet.config)
        self.parts = Parts(bundle, self.autoencoder, self.geometry)
        self.loras = LoraStack(bundle)

    @classmethod
    def from_pretrained(
        cls,
        name_path_or_hub_id: str | Path,
        *,
        dtype: torch.dtype | None = torch.float32,
        device: torch.device | str = "cpu",
        variant: str | None = None,
        backend: devices.Backend = "torch",
    ) -> Self:
        """Load "snowglobe", a folder in diffusers format, or a hub id (only then the network).

        dtype: of all networks, None keeps what is stored. backend: see the class. Raises UserError,
        one line.
        """
        bundle = bundles.load(name_path_or_hub_id, dtype=dtype, device=device, variant=variant)
        warn_of(bundle.notes, stacklevel=2)
        return cls(bundle, backend=backend)

    def load_lora(
        self,
        where: str | Path,
        scale: float = 1.0,
        *,
        blocks: Mapping[str, float] | None = None,
    ) -> LoraReport:
        """Add a LoRA file to the weights, `scale` times, on top of those already loaded.

        The bundle's networks change in place. `self.loras` sets scales, takes LoRAs out again and
        leaves the weights as they were, bit by bit. blocks: scales of parts of the model on top
        ("unet.up_blocks.1" → 0.5). What the user should know is warned of.
        """
        report = self.loras.load(where, scale, blocks=blocks)
        warn_of(report.lines(), stacklevel=2)
        return report

    def __call__(
        self,
        prompt: str | Sequence[str] = "",
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
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        deep_cache_interval: int = 1,
        scheduler: str | Scheduler | None = None,
        eta: float = 0.0,
        clip_skip: int = 0,
        long_prompts: Long = "truncate",
        timesteps: Sequence[int] | None = None,
        source: Source | None = None,
        blend: Blend | None = None,
        upscale: Upscale | None = None,
        decode_tile: int | None = None,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_syntax: Syntax = "a1111",
        word_lists: Mapping[str, Sequence[str]] | None = None,
        latents: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> TextToImageResult:
        """Draw the pictures of one or several prompts in one batch.

        The arguments are the fields of `Request`, and besides: negative_prompt: one, or one each.
        num_images_per_prompt: pictures for each prompt. seed: of the first picture, the k-th has
        seed + k; seeds: one a picture; neither: drawn, and reported. scheduler: a name ("ddim",
        "ddpm", "euler", "dpmsolver++", "unipc", a diffusers class …) or a ready one. word_lists:
        what `__name__` in a prompt may mean (`prompt_choices.read_word_lists`). image, mask: in
        place of files of `source`, which they call up. prompt_embeds, negative_prompt_embeds:
        contexts (L, D), or (B, L, D), in place of prompts. latents: x_T (B, C, h, w) of unit
        variance in place of the seeds' first draw. on_step: see `draw`.
        """
        if source is None and image is not None:
            source = Source(inpaint=None if mask is None else Inpaint())
        ready = None if scheduler is None or isinstance(scheduler, str) else scheduler
        template = Request(
            prompt="",
            seed=seed,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            guidance_start=guidance_start,
            guidance_end=guidance_end,
            deep_cache_interval=deep_cache_interval,
            scheduler=scheduler if isinstance(scheduler, str) else None,
            eta=eta,
            clip_skip=clip_skip,
            long_prompts=long_prompts,
            prompt_syntax=prompt_syntax,
            timesteps=None if timesteps is None else tuple(timesteps),
            source=source,
            blend=blend,
            upscale=upscale,
            decode_tile=decode_tile,
            given=Given(scheduler=ready, word_lists=word_lists, image=image, mask=mask),
        )
        prompts = as_list(prompt)
        if prompt == "" and prompt_embeds is not None and prompt_embeds.ndim == 3:
            prompts = [""] * len(prompt_embeds)
        requests = several(
            template,
            prompts,
            negative_prompts=as_list(negative_prompt),
            num_images_per_prompt=num_images_per_prompt,
            seeds=seeds,
        )
        if latents is not None:
            requests = with_latents(requests, latents)
        if prompt_embeds is not None or negative_prompt_embeds is not None:
            requests = embeds.given_embeds(requests, prompt_embeds, negative_prompt_embeds)
        requests = self.resolve(requests)
        dropped = dropped_words(self.bundle.light.tokenizer, requests)
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
        one drawn alone. on_step: called after every step of a batch; latents that it returns take
        the place of the step's. Leaving the iterator, or an error from `on_step`, stops the
        drawing. Raises UserError for what cannot be done.
        """
        resolved = self.resolve(requests)
        parts = batches(resolved, batch_size)
        return in_order(((part, self._draw(part, on_step)) for part in parts), len(resolved))

    def _draw(self, batch: Batch, on_step: OnStep | None) -> list[Picture]:
        steps = self.walk(batch)
        step, changed = next(steps, None), None
        while step is not None:
            latents = step.latents
            if on_step is not None and (changed := on_step(step)) is not None:
                latents = changed
            step = advance(steps, changed)
        images = self.decode(latents, batch.shared.decode_tile)
        if batch.shared.source is not None:
            images = [
                canvas_of(request, self.geometry).paste(image)
                for request, image in zip(batch.requests, images, strict=True)
            ]
        if batch.shared.upscale is not None:
            second = upscaling.second_pass(batch, images, self.geometry)
            drawn = self._draw(second, on_step)
            images, latents = [p.image for p in drawn], torch.stack([p.latents for p in drawn])
        return [
            Picture(image=image, latents=row, recipe=self.recipe(request, len(images)))
            for image, row, request in zip(images, latents, batch.requests, strict=True)
        ]

    def stream(
        self, requests: Request | Sequence[Request]
    ) -> Generator[PipelineStep, Tensor | None, None]:
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

    def walk(self, batch: Batch) -> Generator[PipelineStep, Tensor | None, None]:
        """The steps of a batch of resolved requests; latents that are sent back replace a step's.

        A batch with an upscale is walked once: the first, small pass.
        """
        weight_hashes.begin(self.bundle.hashes)
        with naming_bad_weights(self.bundle):
            plan = planning.plan(self.parts, batch, self._condition)
            steps = walk(plan.x, plan.legs, plan.noise.draw)
            preview, factor = self.bundle.preview, self.geometry.factor
            step, sent = next(steps, None), None
            while step is not None:
                x, x_0 = step.x.float(), step.x_0.float()
                sent = yield PipelineStep(
                    step.index, step.total, step.t, x, x_0, batch.places, preview, factor
                )
                step = advance(steps, sent)

    @torch.no_grad()
    def decode(self, latents: Tensor, tile: int | None = None) -> list[Image.Image]:
        """Pictures of scaled latents (B, C, h, w); UserError when the decoder gives NaN.

        tile: pixels of the tiles in which the decoder's largest layers work (`tiling.decode`).
        """
        images: list[Image.Image] = []
        for part in latents.split(DECODE_AT_ONCE):
            part = part.to(self.autoencoder.dtype)
            if tile is None:
                pixels = self.autoencoder.decode(part)
            else:
                pixels = tiling.decode(self.autoencoder, part, tile)
            with naming_bad_weights(self.bundle):
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
                planning.scheduler_of(resolved, self.bundle.scheduler_config)
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
        scale = request.guidance_scale
        resolved = replace(
            planning.sized(embeds.resolved(request), self.parts),
            seed=draw_seed() if request.seed is None else request.seed,
            num_inference_steps=planning.step_count(
                request, self.bundle.scheduler_config, lambda: self.default_steps
            ),
            guidance_scale=self.default_guidance_scale if scale is None else scale,
        )
        if not given.scheduler:
            own = self.bundle.scheduler_config.class_name
            resolved = replace(resolved, scheduler=resolved.scheduler or own)
        planning.check_drawable(resolved, self.parts)
        return prompting.resolve(resolved)

    def _condition(self, batch: Batch) -> tuple[Predict, Tensor | ContextAt]:
        """The denoiser with its guidance, and the context that it is told."""
        given, other = embeds.context_of(batch.requests), far_end(batch)
        if given is None and other is None:
            return prompting.condition(self.bundle, self.unet, batch)
        mask = None
        if given is not None:
            unet = self.bundle.light.unet
            context = given.to(unet.device, unet.dtype)
        else:
            context, mask = prompting.fixed_context(self.bundle, batch)
        if other is not None:
            context = blended(context, prompting.fixed_context(self.bundle, other)[0], batch)
        return prompting.guided(self.bundle, self.unet, batch, mask), context

    @torch.no_grad()
    def encode(self, prompt: str, *, clip_skip: int = 0) -> Tensor:
        """The context (L, D) that a prompt becomes, for `prompt_embeds` or a file of them."""
        request = Request(
            prompt=prompt, clip_skip=clip_skip, guidance_scale=1.0, num_inference_steps=1
        )
        return prompting.fixed_context(self.bundle, Batch((request,), (0,)))[0][0]

    def recipe(self, request: Request, batch_size: int = 1) -> Recipe:
        """What makes the picture of a resolved request again, with these weights as they are.

        batch_size: how many were drawn at once.
        """
        unet = self.bundle.part("unet")
        return Recipe(
            request=request,
            model=short_name(self.bundle.source),
            variant=self.bundle.variant,
            vae=self.bundle.vae_source,
            prediction_type=self.bundle.said_prediction,
            weights_sha256=dict(self.bundle.hashes),
            settings_sha256=self.bundle.settings_sha256,
            loras=tuple(self.loras.recipe()),
            embeddings=self.bundle.embeddings,
            dtype=str(unet.dtype).removeprefix("torch."),
            device=str(unet.device),
            backend=self.backend,
            processor=devices.processor_name(unet.device),
            instruction_set=devices.instruction_set(unet.device),
            threads=torch.get_num_threads(),
            batch_size=batch_size,
            versions=versions_of(self.backend),
        )

    @cached_property
    def default_steps(self) -> int:
        """Steps when none are asked for: the model's own, or 50."""
        return card.default_steps(self.bundle.card)

    @cached_property
    def default_guidance_scale(self) -> float:
        """Guidance when none is asked for: the model's own, or 7.5."""
        return card.default_guidance_scale(self.bundle.card)
