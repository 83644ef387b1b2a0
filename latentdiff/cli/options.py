"""Options that several commands share: which model, and how to draw with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from latentdiff.conditioning.settings import Long, Syntax
from latentdiff.devices import Backend, DeviceName, DtypeName
from latentdiff.diffusion.prediction_types import Prediction
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.pipelines.request import Request


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and what computes it."""

    model: str = "snowglobe"
    """snowglobe, a Stable Diffusion 1.x / 2.x folder in diffusers format, a single .safetensors
    checkpoint, or a hub id OWNER/NAME[@REVISION][/FILE]."""
    variant: str | None = None
    """Which of several sets of weights, fp16 for example; ema for a single file's averaged ones."""
    vae: str | None = None
    """File or folder whose autoencoder stands in for the model's own."""
    prediction_type: Prediction | None = None
    """What the U-Net predicts, where the model says it wrongly or not at all, as some 2.x files."""
    lora: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="FILE[:SCALE[:PART=SCALE,…]]"),
    ] = ()
    """LoRA file of any tool, a folder that holds one, or a hub id, and how strongly to apply it,
    1 by default: --lora owl.safetensors:0.8. Parts of the model may have a scale on top:
    --lora owl.safetensors:0.8:unet.up_blocks=0.5,text_encoder=0. May be given several times; they
    add up."""
    embedding: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="FILE[:WORD]"),
    ] = ()
    """Learned word (textual inversion, .safetensors), and how to write it in prompts, by default
    as the file says. May be given several times."""
    dtype: DtypeName = "auto"
    """Number type of the networks; auto is bfloat16 where the hardware computes in it. Latents and
    steps stay float32."""
    device: DeviceName = "auto"
    """Where to compute; auto takes an accelerator when there is one."""
    backend: Backend = "torch"
    """Who computes the U-Net's steps: torch, or OpenVINO on the CPU in float32, which is faster
    once it has compiled the network (pip install 'latentdiff[openvino]')."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to draw."""

    steps: int | None = None
    """Denoising steps; by default the model's own number."""
    guidance_scale: float | None = None
    """How strongly to follow the prompt; by default the model's own scale, 1 is no guidance."""
    guidance_rescale: float = 0.0
    """Against over-exposure at high guidance, 0 to 1 (Lin et al. 2023)."""
    guidance_start: float = 0.0
    """Share of the way from noise to picture before which there is no guidance: such steps take
    half the time, and the picture changes."""
    guidance_end: float = 1.0
    """Share of the way after which there is none."""
    deep_cache_interval: int = 1
    """Of so many steps, one computes the U-Net's inner levels and the others take them over
    (DeepCache, Ma et al. 2024): faster, and the picture changes; 1 is exact."""
    negative_prompt: str = ""
    """What to move away from."""
    scheduler: str | None = None
    """ddim, ddpm, euler, dpmsolver++, unipc, heun …, a diffusers class, or the model's own."""
    eta: float = 0.0
    """DDIM's noise: 0 is deterministic, 1 has DDPM's variance."""
    clip_skip: int = 0
    """Last layers of the text encoder to leave out, as diffusers counts (A1111 counts one more)."""
    long_prompts: Long = "truncate"
    """Prompts over the text encoder's limit: cut there, with a note, or encoded in pieces."""
    prompt_syntax: Syntax = "a1111"
    """How prompts are read: (weights:1.3), [schedules:0.5], AND and {choices|of it} of A1111,
    ComfyUI's weights, or plain text, where brackets are brackets."""
    height: int | None = None
    """Pixels; by default the model's own size."""
    width: int | None = None
    """Pixels; by default the model's own size."""
    batch_size: int = 4
    """Pictures drawn at once; they do not depend on it, up to rounding."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}; expected at least 1")
        self.request()

    def request(self, prompt: str = "", seed: int | None = None) -> Request:
        """These options as a request; UserError for what no model can draw."""
        from latentdiff.pipelines.request import Request

        return Request(
            prompt=prompt,
            seed=seed,
            negative_prompt=self.negative_prompt,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            guidance_rescale=self.guidance_rescale,
            guidance_start=self.guidance_start,
            guidance_end=self.guidance_end,
            deep_cache_interval=self.deep_cache_interval,
            scheduler=self.scheduler,
            eta=self.eta,
            clip_skip=self.clip_skip,
            long_prompts=self.long_prompts,
            prompt_syntax=self.prompt_syntax,
            height=self.height,
            width=self.width,
        )
