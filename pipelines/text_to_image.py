"""Prompt to picture: tokens → context → x_T → denoise → decode (Rombach et al. 2022)."""

from __future__ import annotations

import operator
import secrets
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from latentdiff.conditioning.guidance import Guidance, GuidedDenoiser, Predict
from latentdiff.conditioning.text import (
    Long,
    context_mask,
    dropped_words,
    encode,
    encode_prompts,
    tokenize,
)
from latentdiff.errors import UserError
from latentdiff.models import bundle as bundles
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.models.bundle import Bundle
from latentdiff.models.denoiser import Denoiser
from latentdiff.models.lora.stack import LoraReport, LoraStack
from latentdiff.models.preview import to_images
from latentdiff.pipelines.plan import PipelineStep, Plan, TextToImageResult
from latentdiff.sampling import SeededNoise, check_finite, check_seed, denoise
from latentdiff.schedulers import interop
from latentdiff.schedulers.protocol import Scheduler

DEFAULT_STEPS = 50
DEFAULT_GUIDANCE = 7.5
DECODE_AT_ONCE = 8
MAX_PIXELS = 4096 * 4096


class TextToImagePipeline:
    """Draws pictures from prompts with the parts of a bundle.

    Seed s means the noise of `torch.Generator("cpu").manual_seed(s)` for each picture alone: its
    x_T first, then its step noise, in float32, whatever the batch and the device.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.autoencoder = Autoencoder(bundle.vae)
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
        for note in bundle.notes:
            warnings.warn(note, stacklevel=2)
        return cls(bundle)

    def load_lora(self, where: str | Path, scale: float = 1.0) -> LoraReport:
        """Add a LoRA file to the weights, `scale` times, on top of those already loaded.

        The bundle's networks change in place. `self.loras` sets scales, takes LoRAs out again and
        leaves the weights as they were, bit by bit. What the user should know is warned of.
        """
        report = self.loras.load(where, scale)
        for line in report.lines():
            warnings.warn(line, stacklevel=2)
        return report

    @cached_property
    def default_steps(self) -> int:
        """Steps when none are asked for: the model's own, or 50."""
        return _whole(
            "num_inference_steps", self.bundle.card.get("num_inference_steps", DEFAULT_STEPS)
        )

    @cached_property
    def default_guidance_scale(self) -> float:
        """Guidance when none is asked for: the model's own, or 7.5."""
        scale = self.bundle.card.get("guidance_scale", DEFAULT_GUIDANCE)
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            raise UserError(f"the model's guidance_scale is {scale!r}; a number was expected")
        return float(scale)

    def plan(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        scheduler: str | Scheduler | None = None,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        latents: Tensor | None = None,
        long_prompts: Long = "truncate",
    ) -> Plan:
        """Check one call's arguments (see `__call__`) and resolve its defaults."""
        given = [prompt] if isinstance(prompt, str) else list(prompt)
        if not given:
            raise UserError("no prompt was given; expected at least one")
        if num_images_per_prompt < 1:
            raise UserError(f"{num_images_per_prompt} pictures a prompt; expected at least 1")
        negative = [negative_prompt] if isinstance(negative_prompt, str) else list(negative_prompt)
        if len(negative) not in (1, len(given)):
            raise UserError(
                f"{len(negative)} negative prompts for {len(given)} prompts; "
                "expected one, or one each"
            )
        negative = negative * (len(given) // len(negative))
        prompts = tuple(p for p in given for _ in range(num_images_per_prompt))
        negatives = tuple(p for p in negative for _ in range(num_images_per_prompt))
        chosen_seeds = _resolve_seeds(seed, seeds, len(prompts))
        size = self._resolve_size(height, width)
        scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
        guidance = Guidance(scale=scale, rescale=guidance_rescale)
        built, steps = self._resolve_scheduler(scheduler, num_inference_steps, eta)
        if latents is not None:
            shape = (len(prompts), *self._latent_shape(*size))
            if tuple(latents.shape) != shape:
                raise UserError(f"latents have shape {tuple(latents.shape)}; expected {shape}")
            if not bool(torch.isfinite(latents).all()):
                raise UserError("the given latents hold NaN or infinity")
        name = scheduler if isinstance(scheduler, str) else type(built).__name__
        recipe = {
            "prompts": list(prompts),
            "negative_prompts": list(negatives),
            "seeds": list(chosen_seeds),
            "num_inference_steps": steps,
            "guidance_scale": scale,
            "guidance_rescale": guidance_rescale,
            "scheduler": name if scheduler is not None else self.bundle.scheduler_config.class_name,
            "eta": eta,
            "height": size[0],
            "width": size[1],
            "given_latents": latents is not None,
            "dtype": str(self.bundle.unet.dtype).removeprefix("torch."),
            "model": self._model_name(),
            "weights_sha256": dict(self.bundle.hashes),
            **({"long_prompts": long_prompts} if long_prompts != "truncate" else {}),
            **({"loras": loras} if (loras := self.loras.recipe()) else {}),
            "versions": {
                p: version(p) for p in ("latentdiff", "torch", "diffusers", "transformers")
            },
        }
        return Plan(
            prompts=prompts,
            negative_prompts=negatives,
            seeds=chosen_seeds,
            height=size[0],
            width=size[1],
            guidance=guidance,
            scheduler=built,
            latents=latents,
            recipe=recipe,
            dropped_words={}
            if long_prompts == "chunk"
            else dropped_words(self.bundle.tokenizer, [*prompts, *negatives]),
            long_prompts=long_prompts,
        )

    def __call__(self, prompt: str | Sequence[str], **options: Any) -> TextToImageResult:
        """Draw pictures.

        prompt: one or several. negative_prompt: what to move away from, one or one each.
        num_inference_steps, guidance_scale: the model's own by default. guidance_rescale: φ of Lin
        et al. 2023, 0 … 1. scheduler: a name ("ddim", "ddpm", "euler", "dpmsolver++", "unipc", a
        diffusers class …), the checkpoint's own by default, or a ready scheduler. eta: DDIM's, 0
        deterministic. height, width: pixels, multiples of the autoencoder's factor.
        num_images_per_prompt: pictures for each prompt. seed: of the first picture, the k-th has
        seed + k; seeds: one a picture; neither: drawn, and reported. latents: x_T (B, C, h, w) of
        unit variance in place of the seeds' first draw. long_prompts: "truncate" cuts prompts at
        the text encoder's limit, "chunk" encodes them in pieces side by side. Raises UserError for
        what cannot be done.
        """
        plan = self.plan(prompt, **options)
        for words in plan.dropped_words.values():
            warnings.warn(f"lost to the tokenizer's limit: {' '.join(words)}", stacklevel=2)
        *_, last = self.walk(plan)
        return self.finish(plan, last.latents)

    def stream(self, prompt: str | Sequence[str], **options: Any) -> Iterator[PipelineStep]:
        """The same walk, yielding after every step; it can be left at any of them.

        The arguments are those of a call. `step.previews()` are cheap pictures;
        `pipe.decode(step.x_0)` are the real ones.
        """
        return self.walk(self.plan(prompt, **options))

    def walk(self, plan: Plan) -> Iterator[PipelineStep]:
        """The steps of a plan."""
        device = self.bundle.unet.device
        context, mask = self._context(plan)
        noise = SeededNoise(plan.seeds, self._latent_shape(plan.height, plan.width), device)
        unit = noise.draw() if plan.latents is None else plan.latents.to(device, torch.float32)
        prediction_type = self.bundle.scheduler_config.prediction_type
        denoiser: Predict = Denoiser(self.bundle.unet, prediction_type, mask)
        if plan.guidance.active:
            denoiser = GuidedDenoiser(denoiser, plan.guidance)
        steps = denoise(
            denoiser,
            plan.scheduler,
            unit * plan.scheduler.init_noise_sigma,
            context=context,
            noise=noise.draw,
        )
        while True:
            # Not held across a yield: the caller's own code between steps keeps its gradients.
            with torch.no_grad():
                step = next(steps, None)
            if step is None:
                return
            yield PipelineStep(
                step.index,
                step.total,
                step.t,
                step.x,
                step.x_0,
                self.bundle.preview,
                self.autoencoder.factor,
            )

    def finish(self, plan: Plan, latents: Tensor) -> TextToImageResult:
        """The result of a plan whose walk ended at `latents`."""
        return TextToImageResult(
            images=self.decode(latents),
            latents=latents,
            seeds=plan.seeds,
            recipe=plan.recipe,
            dropped_words=plan.dropped_words,
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

    def _context(self, plan: Plan) -> tuple[Tensor, Tensor | None]:
        """Context (B, L, D), or (2B, L, D) with the negative prompts first, in one text call; and
        the mask of what is only filled up in it, where prompts take different numbers of chunks."""
        tokenizer, encoder = self.bundle.tokenizer, self.bundle.text_encoder
        mask = None
        if plan.long_prompts == "chunk":
            tokens = tokenize(tokenizer, _texts(plan), long="chunk")
            context, mask = encode(encoder, tokens.input_ids), context_mask(tokens)
        else:
            context = encode_prompts(tokenizer, encoder, _texts(plan))
        check_finite(context, "the text encoder", "for these prompts")
        return context, mask

    def _latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        factor = self.autoencoder.factor
        return self.autoencoder.latent_channels, height // factor, width // factor

    def _resolve_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        factor, own = self.autoencoder.factor, self.bundle.unet.config.sample_size
        own_height, own_width = (own, own) if isinstance(own, int) else own
        size = (
            own_height * factor if height is None else height,
            own_width * factor if width is None else width,
        )
        levels = len(self.bundle.unet.config.block_out_channels)
        for name, value in zip(("height", "width"), size, strict=True):
            smallest = factor * 2 ** (levels - 1)
            if value % factor or value < smallest:
                near = max(smallest, round(value / factor) * factor)
                raise UserError(
                    f"{name} {value} does not fit; expected a multiple of {factor} pixels of at "
                    f"least {smallest}, such as {near}"
                )
        if size[0] * size[1] > MAX_PIXELS:
            raise UserError(
                f"height {size[0]} and width {size[1]} make {size[0] * size[1]:,} pixels; "
                f"expected at most {MAX_PIXELS:,}"
            )
        return size

    def _resolve_scheduler(
        self, scheduler: str | Scheduler | None, steps: int | None, eta: float
    ) -> tuple[Scheduler, int]:
        """The scheduler, and the number of steps that was asked of it."""
        config = self.bundle.scheduler_config
        if scheduler is not None and not isinstance(scheduler, str):
            if steps is not None or eta:
                raise UserError("a ready scheduler has its own steps and eta; leave both out")
            return scheduler, len(scheduler.grid())
        count = self.default_steps if steps is None else _whole("num_inference_steps", steps)
        if not 1 <= count <= config.num_train_timesteps:
            raise UserError(
                f"{count} steps are out of range; expected 1 … {config.num_train_timesteps}"
            )
        return interop.build(scheduler, config, count, eta=eta), count

    def _model_name(self) -> str:
        source = self.bundle.source
        if not source:
            return "in memory"
        built_in = Path(bundles.folders.__file__).parents[1] / "assets"
        path = Path(source)
        return path.name if path.parent == built_in else source


def _texts(plan: Plan) -> list[str]:
    """What is encoded: negative prompts first, left out when guidance is off."""
    return [*(plan.negative_prompts if plan.guidance.active else ()), *plan.prompts]


def _whole(name: str, value: Any) -> int:
    """The value as an int; UserError when it is not a whole number."""
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {value!r}; a whole number was expected") from None


def _resolve_seeds(seed: int | None, seeds: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """A seed for each of `count` pictures."""
    if seed is not None and seeds is not None:
        raise UserError("both seed and seeds were given; give one")
    if seeds is not None:
        if len(seeds) != count:
            raise UserError(f"{len(seeds)} seeds for {count} pictures; expected one each")
        chosen = [_whole("seed", s) for s in seeds]
    else:
        first = secrets.randbelow(2**31) if seed is None else _whole("seed", seed)
        chosen = [first + k for k in range(count)]
    return tuple(check_seed(value) for value in chosen)
