"""Records that a request may hold: a picture to start from, what to repaint, other contexts, a
second end point."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from latentdiff.errors import UserError, unknown_name
from latentdiff.seeding import check_image_seed

Resize = Literal["fill", "fit", "stretch"]
"""How a picture takes another size: covering it, the rest cut off evenly; whole inside it, with its
own proportions; or stretched."""

DEFAULT_STRENGTH = 0.8
"""Of image-to-image, as in diffusers; repainting and editing walk all steps by default."""


@dataclass(frozen=True, kw_only=True)
class Inpaint:
    """What of a picture is painted anew: a mask's white, and what is added around it.

    Pixels that are black in the mask are the picture's own, bit by bit, in what comes out.
    """

    mask: str = ""
    """File of the picture's size: white is repainted, black is kept, grey blends the two; empty
    when the mask is given in Python, or when only `expand` is repainted."""
    mask_sha256: str = ""
    """Of the file; filled in when it is read, and from then on demanded."""
    expand: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels to add at left, top, right and bottom."""
    feather: int = 4
    """Pixels inside the mask's edge over which the new picture fades in; 0 is a hard edge."""
    only_masked: bool = False
    """Draw only what surrounds the mask, at the model's full resolution, and put it back."""
    padding: int = 32
    """Pixels of surroundings that `only_masked` shows the model."""
    resample: int = 1
    """How often each step is walked, noised again in between (RePaint, Lugmayr et al. 2022)."""

    def __post_init__(self) -> None:
        if len(self.expand) != 4 or min(self.expand) < 0:
            raise UserError(
                f"expand is {','.join(map(str, self.expand))}; expected four numbers of pixels, "
                "0 or more: LEFT,TOP,RIGHT,BOTTOM"
            )
        for name, least in (("feather", 0), ("padding", 0), ("resample", 1)):
            if not least <= getattr(self, name) <= 4096:
                raise UserError(
                    f"{name} {getattr(self, name)} is out of range; expected {least} … 4096"
                )


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Find the noise that the picture would come from, and draw the request's prompt from it."""

    prompt: str = ""
    """What the picture shows."""
    exact: bool = False
    """EDICT (Wallace et al. 2023), which comes back to the bit's rounding with any network and
    guidance, at two network calls a step; otherwise DDIM's inverse, which drifts."""
    guidance_scale: float = 1.0
    """While walking to the noise; DDIM's inverse needs 1, EDICT takes any."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.guidance_scale <= 1000.0:
            raise UserError(
                f"the inversion's guidance scale {self.guidance_scale} is out of range; "
                "expected 0 … 1000"
            )


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture to start from."""

    image: str = ""
    """File; empty when the picture is given in Python."""
    image_sha256: str = ""
    """Of the file; filled in when it is read, and from then on demanded."""
    strength: float | None = None
    """The share of the steps that is walked, and so how much may change, in (0, 1]: 0.8 by default,
    1 where a part is repainted or the picture is inverted."""
    resize: Resize = "fill"
    """How the picture takes the request's size."""
    inpaint: Inpaint | None = None
    """Repaint a part of it."""
    inversion: Inversion | None = None
    """Start from the noise it would come from, in place of fresh noise over it."""

    def __post_init__(self) -> None:
        if self.resize not in get_args(Resize):
            raise unknown_name("resize", str(self.resize), get_args(Resize))
        if self.strength is not None and not 0.0 < self.strength <= 1.0:
            raise UserError(f"strength {self.strength} is out of range; expected above 0, up to 1")
        if self.inpaint is not None and self.inversion is not None:
            raise UserError("a picture is either repainted in parts or edited as a whole, not both")

    def resolved(self, image_sha256: str, mask_sha256: str) -> Source:
        """With the default strength and the files' hashes filled in."""
        whole = self.inpaint is not None or self.inversion is not None
        inpaint = self.inpaint
        if inpaint is not None:
            inpaint = dataclasses.replace(inpaint, mask_sha256=mask_sha256)
        strength = 1.0 if whole else DEFAULT_STRENGTH
        return dataclasses.replace(
            self,
            image_sha256=image_sha256,
            strength=strength if self.strength is None else self.strength,
            inpaint=inpaint,
        )


@dataclass(frozen=True, kw_only=True)
class Embeds:
    """A file of contexts in place of encoded prompts, as diffusers' `encode_prompt` gives them."""

    file: str
    """.safetensors with `prompt_embeds` (L, D), and `negative_prompt_embeds` for guidance."""
    file_sha256: str = ""
    """Of the file; filled in when it is read, and from then on demanded."""


@dataclass(frozen=True, kw_only=True)
class Blend:
    """A point on the way from the request's seed and prompt to others.

    Noise goes along the sphere (slerp), the prompt's context along the line. With a seed alone it
    is a variation of the request's picture, `amount` strong.
    """

    seed: int | None = None
    """The noise at the far end; None keeps the request's."""
    prompt: str | None = None
    """The prompt at the far end; None keeps the request's."""
    amount: float = 0.0
    """0 is the request itself, 1 the far end."""

    def __post_init__(self) -> None:
        if self.seed is not None:
            check_image_seed(self.seed)
        if not 0.0 <= self.amount <= 1.0:
            raise UserError(f"a blend's amount is {self.amount}; expected 0 … 1")


@dataclass(frozen=True, kw_only=True)
class Upscale:
    """A second pass: the picture is enlarged and drawn over by image-to-image."""

    scale: float = 2.0
    """How many times wider and higher; sides are rounded to what the model can draw."""
    strength: float = 0.5
    """Of the second pass."""

    def __post_init__(self) -> None:
        if not 1.0 < self.scale <= 8.0:
            raise UserError(
                f"an upscale of {self.scale} is out of range; expected above 1, up to 8"
            )
        if not 0.0 < self.strength <= 1.0:
            raise UserError(
                f"the upscale's strength {self.strength} is out of range; expected above 0, up to 1"
            )
