"""What a caller asks for: one frozen, checked record for each picture.

The options of `latentdiff generate`, the arguments of `TextToImagePipeline.__call__` and the recipe
inside a PNG are views of `Request`. A new wish is a new field here (or a frozen record as a field):
it then travels through JSON, recipes and batches by itself.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentdiff import config as configs
from latentdiff.conditioning import prompt_language
from latentdiff.conditioning.settings import SYNTAXES, Guidance, Long, Syntax
from latentdiff.errors import UserError, unknown_name
from latentdiff.pipelines.request_records import Blend, Embeds, Source, Upscale
from latentdiff.schedulers import names
from latentdiff.seeding import check_image_seed

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from latentdiff.schedulers.protocol import Scheduler

SCHEMA = 2
"""Number of the JSON form; it grows when a key changes its meaning.

In form 1 prompts were plain text."""
MAX_PIXELS = 4096 * 4096
PER_PICTURE = ("prompt", "negative_prompt", "template", "seed", "blend", "given")
"""Fields in which the pictures of one batch may differ."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """What only Python can hand over; no file keeps it, only its name.

    latents: x_T of this picture, (C, h, w), of unit variance, in place of the
    seed's first draw. scheduler: a ready one, in place of name, steps and eta. word_lists: what
    `__name__` in a prompt means, None where such names are text; once a request is resolved, the
    prompt holds the lines that were drawn from them. image, mask: in place of the files of `Source`
    and `Inpaint`. prompt_embeds, negative_prompt_embeds: contexts (L, D) in place of encoded
    prompts. lost: the names of what a stored request was drawn with and JSON could not keep.
    """

    latents: Tensor | None = None
    scheduler: Scheduler | None = None
    word_lists: Mapping[str, Sequence[str]] | None = None
    image: Image.Image | None = None
    mask: Image.Image | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    lost: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """What is given, for the recipe."""
        own = (field.name for field in dataclasses.fields(self) if field.name != "lost")
        return [*(name for name in own if getattr(self, name) is not None), *self.lost]


COUNTS = ("clip_skip", "decode_tile", "deep_cache_interval")
GUIDANCE = ("guidance_scale", "guidance_rescale", "guidance_start", "guidance_end")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One picture. None means the model's own default; `pipeline.resolve` fills it in.

    Raises UserError when built with what no model can draw.
    """

    prompt: str
    negative_prompt: str = ""
    """What to move away from; without guidance it has no effect."""
    seed: int | None = None
    """0 … 2³² - 1; None (or -1, as elsewhere) draws one, and the recipe says which."""
    width: int | None = None
    """Pixels."""
    height: int | None = None
    """Pixels."""
    num_inference_steps: int | None = None
    timesteps: tuple[int, ...] | None = None
    """An explicit falling list, in place of a number of steps."""
    guidance_scale: float | None = None
    """Imagen's w: at 1 or below there is no guidance."""
    guidance_rescale: float = 0.0
    """φ of Lin et al. 2023, 0 … 1."""
    guidance_start: float = 0.0
    """Share of the way from noise to picture before which there is no guidance."""
    guidance_end: float = 1.0
    """Share of the way after which there is none."""
    deep_cache_interval: int = 1
    """N of DeepCache (Ma et al. 2024): of so many steps, one computes the U-Net's inner levels and
    the others take them over; approximate above 1."""
    scheduler: str | None = None
    """A short name or a diffusers class; None: the checkpoint's own."""
    eta: float = 0.0
    """DDIM's noise: 0 is deterministic, 1 has DDPM's variance."""
    clip_skip: int = 0
    """Last layers of the text encoder that are left out, as diffusers counts."""
    long_prompts: Long = "truncate"
    """Prompts over the text encoder's limit: cut there, or encoded in pieces side by side."""
    embeds: Embeds | None = None
    """A file of contexts in place of the prompts."""
    source: Source | None = None
    """A picture to start from, whole or to repaint in parts."""
    blend: Blend | None = None
    """Another seed or prompt, and how far to go towards it."""
    upscale: Upscale | None = None
    """Draw it larger in a second pass."""
    decode_tile: int | None = None
    """Pixels of the tiles in which the decoder's largest layers work, to save memory; the picture
    is the same within 1e-4."""
    prompt_syntax: Syntax = "a1111"
    """How the prompts are read: A1111's language, ComfyUI's weights, or plain text."""
    template: str | None = None
    """The prompt before its choices were made; where it is set, they are made no more."""
    given: Given | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt"):
            if not isinstance(getattr(self, name), str):
                raise UserError(f"{name} is {getattr(self, name)!r}; a text was expected")
            if not getattr(self, name).isascii():
                _check_unicode(name, getattr(self, name))
        for name in ("seed", "width", "height", "num_inference_steps", *COUNTS):
            self._set(name, _whole(name, getattr(self, name)))
        for name in (*GUIDANCE, "eta"):
            self._set(name, _number(name, getattr(self, name)))
        if self.seed == -1:
            self._set("seed", None)
        if self.seed is not None:
            check_image_seed(self.seed)
        for name in ("width", "height"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} {value} does not fit; expected at least 1 pixel")
        if (self.width or 1) * (self.height or 1) > MAX_PIXELS:
            raise UserError(
                f"height {self.height} and width {self.width} make more than {MAX_PIXELS:,} pixels;"
                " expected fewer"
            )
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise UserError(
                f"{self.num_inference_steps} steps are out of range; expected 1 or more"
            )
        if self.deep_cache_interval < 1:
            raise UserError(
                f"deep_cache_interval {self.deep_cache_interval} is out of range; "
                "expected 1 or more"
            )
        self._guidance(self.guidance_scale or 0.0)
        if not 0.0 <= self.eta < float("inf"):
            raise UserError(f"eta {self.eta} is out of range; expected 0 or more")
        if self.clip_skip < 0:
            raise UserError(f"clip_skip {self.clip_skip} is out of range; expected 0 or more")
        if self.long_prompts not in ("truncate", "chunk"):
            raise unknown_name("long_prompts", str(self.long_prompts), ("truncate", "chunk"))
        if self.decode_tile is not None and self.decode_tile < 64:
            raise UserError(f"decode_tile {self.decode_tile} is too small; expected 64 or more")
        if (
            self.upscale is not None
            and self.source
            and (self.source.inpaint or self.source.inversion)
        ):
            raise UserError(
                "a second, larger pass draws over the whole picture; repaint or edit first, then "
                "upscale what came out"
            )
        if self.embeds is not None and (self.prompt or self.negative_prompt):
            raise UserError(
                f"prompts and the contexts in {self.embeds.file} were given; give one of the two"
            )
        if self.prompt_syntax not in SYNTAXES:
            raise unknown_name("prompt_syntax", str(self.prompt_syntax), SYNTAXES)
        self.language()
        self._check_scheduler()

    def _check_scheduler(self) -> None:
        if self.timesteps is not None:
            self._set("timesteps", tuple(_whole("timesteps", t) for t in self.timesteps))
            if self.num_inference_steps not in (None, len(self.timesteps)):
                raise UserError(
                    f"{self.num_inference_steps} steps and {len(self.timesteps)} timesteps were "
                    "given; give one"
                )
        if self.scheduler is not None:
            names.canonical(self.scheduler)
        ready = self.given is not None and self.given.scheduler is not None
        if ready and (self.scheduler or self.eta):
            raise UserError("a ready scheduler has its own steps and eta; leave both out")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def language(self) -> tuple[prompt_language.Prompt, prompt_language.Prompt]:
        """The prompt and the negative prompt, read; UserError for what cannot be."""
        return (
            prompt_language.parse(self.prompt, self.prompt_syntax),
            prompt_language.parse(self.negative_prompt, self.prompt_syntax, composed=False),
        )

    @property
    def guidance(self) -> Guidance:
        """All of it together; only of a resolved request."""
        assert self.guidance_scale is not None, "resolve the request first"
        return self._guidance(self.guidance_scale)

    def _guidance(self, scale: float) -> Guidance:
        return Guidance(
            scale=scale,
            rescale=self.guidance_rescale,
            start=self.guidance_start,
            end=self.guidance_end,
        )

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values, and the number of this form."""
        values = configs.to_dict(dataclasses.replace(self, given=None))
        del values["given"]
        held = self.given.names() if self.given is not None else []
        return {"schema": SCHEMA, **values, **({"given": held} if held else {})}

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> Request:
        """The request that `to_json` wrote, or a part of one; the rest keeps its defaults.

        Raises UserError for an unknown key (naming the nearest), a value of another kind, and a
        form newer than this program.
        """
        if not isinstance(mapping, Mapping):
            raise UserError(f"a request is {mapping!r}; a table of keys was expected")
        values = dict(mapping)
        schema, lost = values.pop("schema", SCHEMA), values.pop("given", ())
        if not isinstance(schema, int) or schema > SCHEMA:
            raise UserError(
                f"the request has form {schema!r}, this version reads up to {SCHEMA}; "
                "a newer latentdiff wrote it"
            )
        if schema < 2:
            values.setdefault("prompt_syntax", "plain")
        request = configs.from_dict(cls, values)
        given = Given(lost=tuple(map(str, lost))) if lost else None
        return dataclasses.replace(request, given=given)

    def batch_key(self) -> tuple[Any, ...]:
        """Equal for requests that may share a batch."""
        shared = (f.name for f in dataclasses.fields(self) if f.name not in PER_PICTURE)
        given = self.given or Given()
        return (
            *(getattr(self, name) for name in shared),
            id(given.scheduler),
            *(x is not None for x in (given.latents, given.image, given.prompt_embeds)),
            *((id(given.image), id(given.mask)) if self.source and self.source.inpaint else ()),
        )


def several(
    template: Request,
    prompts: Sequence[str],
    *,
    negative_prompts: Sequence[str] | None = None,
    num_images_per_prompt: int = 1,
    seeds: Sequence[int] | None = None,
) -> list[Request]:
    """A request for each picture of each prompt, all else as in the template.

    Pictures of a prompt stand together. The template's seed is that of the first picture, the k-th
    has seed + k; seeds: one a picture instead. negative_prompts: one for all, or one each.
    """
    if not prompts:
        raise UserError("no prompt was given; expected at least one")
    if num_images_per_prompt < 1:
        raise UserError(f"{num_images_per_prompt} pictures a prompt; expected at least 1")
    negative = [template.negative_prompt] if negative_prompts is None else list(negative_prompts)
    if len(negative) not in (1, len(prompts)):
        raise UserError(
            f"{len(negative)} negative prompts for {len(prompts)} prompts; "
            "expected one, or one each"
        )
    negative *= len(prompts) // len(negative)
    pairs = [
        pair for pair in zip(prompts, negative, strict=True) for _ in range(num_images_per_prompt)
    ]
    return [
        dataclasses.replace(template, prompt=prompt, negative_prompt=other, seed=seed)
        for (prompt, other), seed in zip(pairs, _seeds(template, seeds, len(pairs)), strict=True)
    ]


def _seeds(template: Request, seeds: Sequence[int] | None, count: int) -> Sequence[int]:
    if seeds is None:
        first = draw_seed() if template.seed is None else template.seed
        return range(first, first + count)
    if template.seed is not None:
        raise UserError("both seed and seeds were given; give one")
    if len(seeds) != count:
        raise UserError(f"{len(seeds)} seeds for {count} pictures; expected one each")
    return list(seeds)


def with_latents(requests: Sequence[Request], latents: Tensor) -> list[Request]:
    """The requests, each with its row of latents (B, C, h, w) for x_T."""
    if latents.shape[:1] != (len(requests),):
        raise UserError(
            f"latents have shape {tuple(latents.shape)} for {len(requests)} pictures; "
            "expected one row each"
        )
    return [
        dataclasses.replace(r, given=dataclasses.replace(r.given or Given(), latents=row))
        for r, row in zip(requests, latents, strict=True)
    ]


def as_list(texts: str | Sequence[str]) -> list[str]:
    """One text, or several, as a list."""
    return [texts] if isinstance(texts, str) else list(texts)


def draw_seed() -> int:
    """A fresh seed, with room for many pictures above it."""
    import secrets

    return secrets.randbelow(2**31)


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{name} holds half a character at place {error.start + 1}") from error


def _whole(name: str, value: Any) -> int | None:
    """The value as an int; UserError when it is not a whole number."""
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {value!r}; a whole number was expected") from None


def _number(name: str, value: Any) -> float | None:
    """The value as a float, of numpy's and torch's kinds too; UserError for anything else."""
    if value is None:
        return None
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise UserError(f"{name} is {value!r}; a number was expected")
    return float(plain)
