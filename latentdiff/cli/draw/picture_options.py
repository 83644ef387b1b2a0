"""Option groups for pictures made from pictures, for variations and for large pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from latentdiff.errors import UserError
from latentdiff.pipelines.request_records import (
    Blend,
    Embeds,
    Inpaint,
    Inversion,
    Resize,
    Source,
    Upscale,
)


@dataclass(frozen=True, kw_only=True)
class RepaintOptions:
    """Repaint a part of the picture, or around it. What a mask holds black stays bit by bit."""

    mask: Path | None = None
    """Picture of the same size: white is repainted, black is kept, grey blends."""
    expand: Annotated[str | None, tyro.conf.arg(metavar="L,T,R,B")] = None
    """Pixels to add at left, top, right and bottom, drawn to fit what is there."""
    feather: int = 4
    """Pixels inside the mask's edge over which the new picture fades in; 0 is a hard edge."""
    only_masked: bool = False
    """Draw only the mask's surroundings, at the model's full resolution, and put them back."""
    padding: int = 32
    """Pixels of surroundings that --only-masked shows the model."""
    resample: int = 1
    """Times to walk each step, noised again in between (RePaint): slower, seams agree better."""


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """Change what a picture shows: the prompt says what it shows, --edit what it shall show."""

    edit: str | None = None
    """The new prompt: the picture's noise is found with the first and drawn with this one."""
    exact: bool = False
    """Invert by EDICT, which comes back exactly, at two network calls a step."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Start from a picture."""

    image: Path | None = None
    """Picture to start from."""
    strength: float | None = None
    """Share of the steps to walk, so how much may change, above 0, up to 1: by default 0.8, and 1
    with --mask, --expand and --edit."""
    resize: Resize = "fill"
    """How it takes the size: covering it, the rest cut off; whole inside it; or stretched."""
    repaint: RepaintOptions = field(default_factory=RepaintOptions)
    change: EditOptions = field(default_factory=EditOptions)

    def __post_init__(self) -> None:
        if self.image is None:
            wanted = {
                "--mask": self.repaint.mask,
                "--expand": self.repaint.expand,
                "--edit": self.change.edit,
                "--strength": self.strength,
            }
            for option, value in wanted.items():
                if value is not None:
                    raise UserError(f"{option} needs a picture to start from; give --image FILE")
        if self.change.exact and self.change.edit is None:
            raise UserError("--exact says how to edit; give --edit PROMPT too")
        self.source("")

    def source(self, prompt: str) -> Source | None:
        """As part of a request; `prompt` says what the picture shows."""
        if self.image is None:
            return None
        repaint, change = self.repaint, self.change
        inpaint = None
        if repaint.mask is not None or repaint.expand is not None:
            inpaint = Inpaint(
                mask="" if repaint.mask is None else str(repaint.mask),
                expand=_four(repaint.expand),
                feather=repaint.feather,
                only_masked=repaint.only_masked,
                padding=repaint.padding,
                resample=repaint.resample,
            )
        return Source(
            image=str(self.image),
            strength=self.strength,
            resize=self.resize,
            inpaint=inpaint,
            inversion=None if change.edit is None else Inversion(prompt=prompt, exact=change.exact),
        )


@dataclass(frozen=True, kw_only=True)
class VariationOptions:
    """Pictures near the one of --seed."""

    variation_strength: float = 0.0
    """How far to go from the seed's noise towards another's, 0 to 1: picture k towards that of
    --variation-seed + k, all from --seed itself."""
    variation_seed: int | None = None
    """Seed of the noise to go towards; the k-th picture's is this + k; drawn by default."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.variation_strength <= 1.0:
            raise UserError(f"variation_strength is {self.variation_strength}; expected 0 … 1")
        if self.variation_seed is not None and not self.variation_strength:
            raise UserError("--variation-seed has no effect without --variation-strength")

    def blends(self, count: int) -> list[Blend | None]:
        """For each of `count` pictures."""
        from latentdiff.pipelines.request import draw_seed

        if not self.variation_strength:
            return [None] * count
        first = draw_seed() if self.variation_seed is None else self.variation_seed
        return [Blend(seed=first + k, amount=self.variation_strength) for k in range(count)]


@dataclass(frozen=True, kw_only=True)
class LargeOptions:
    """Large pictures."""

    upscale: float | None = None
    """Draw the picture this many times wider and higher in a second pass over the enlarged one."""
    upscale_strength: float = 0.5
    """Share of the steps that the second pass walks."""
    decode_tile: int | None = None
    """Pixels of tiles to decode in, to save memory: the same picture, in about three times as
    long."""

    def pass_two(self) -> Upscale | None:
        """The second pass, as part of a request."""
        return (
            None
            if self.upscale is None
            else Upscale(scale=self.upscale, strength=self.upscale_strength)
        )


@dataclass(frozen=True, kw_only=True)
class GivenOptions:
    """What is otherwise computed, given by hand."""

    timesteps: Annotated[str | None, tyro.conf.arg(metavar="T,T,…")] = None
    """The timesteps to walk, falling, in place of a number of steps: 999,750,500,250,1."""
    prompt_embeds: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Contexts in place of prompts: .safetensors with prompt_embeds and negative_prompt_embeds, as
    diffusers' encode_prompt gives them."""

    def walked(self) -> tuple[int, ...] | None:
        """The timesteps; UserError for what is no list of numbers."""
        if self.timesteps is None:
            return None
        try:
            return tuple(int(part) for part in self.timesteps.split(","))
        except ValueError:
            raise UserError(
                f"timesteps is {self.timesteps!r}; expected whole numbers with commas between"
            ) from None

    def embeds(self) -> Embeds | None:
        """As part of a request."""
        return None if self.prompt_embeds is None else Embeds(file=str(self.prompt_embeds))


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """What is drawn beside, over or after a prompt's own picture."""

    source: SourceOptions = field(default_factory=SourceOptions)
    variation: VariationOptions = field(default_factory=VariationOptions)
    large: LargeOptions = field(default_factory=LargeOptions)
    given: GivenOptions = field(default_factory=GivenOptions)

    def __post_init__(self) -> None:
        self.large.pass_two()
        self.given.walked()


def _four(text: str | None) -> tuple[int, int, int, int]:
    if text is None:
        return 0, 0, 0, 0
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"expand is {text!r}; expected four numbers of pixels: LEFT,TOP,RIGHT,BOTTOM"
        ) from None
    return left, top, right, bottom
