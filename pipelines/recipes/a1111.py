"""The `parameters` text that A1111's web UI puts into pictures: written, and read back."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentdiff.errors import UserError
from latentdiff.pipelines.recipes.recipe import Recipe
from latentdiff.pipelines.request import Request
from latentdiff.schedulers import names

# our scheduler -> A1111's sampler
SAMPLERS: dict[str, str] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "Euler",
    "euler-ancestral": "Euler a",
    "euler-a": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "pndm": "PLMS",
    "unipc": "UniPC",
    "dpmsolver++": "DPM++ 2M",
    "dpmsolver++-sde": "DPM++ 2M SDE",
    "kdpm2": "DPM2",
    "kdpm2-ancestral": "DPM2 a",
    "lcm": "LCM",
    "DDIMScheduler": "DDIM",
    "DDPMScheduler": "DDPM",
    "PNDMScheduler": "PLMS",
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
}
NOISE_SENTENCE = (
    "A1111 draws its noise on the GPU unless told otherwise: the seed is kept, the picture is not"
)

_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_LORA = re.compile(r"<(lora|lyco|hypernet):([^:>]+)(?::([^>]*))?>")
_SIZE = re.compile(r"(\d+)\s*x\s*(\d+)")
_NEGATIVE = "Negative prompt:"
_READ = frozenset(
    (
        *("Steps", "Sampler", "Schedule type", "CFG scale", "CFG Rescale", "Seed", "Size", "RNG"),
        *("Clip skip", "Eta", "Model", "Model hash", "Version", "VAE", "VAE hash"),
        *("Lora hashes", "TI hashes"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What another program's picture says, as far as it goes here.

    program: its name. model: what it calls the model. notes: what could not be kept, a line each.
    """

    program: str
    request: Request
    model: str
    notes: tuple[str, ...]


def write_parameters(recipe: Recipe) -> str:
    """A recipe as A1111's text. What that has no word for stands in the recipe alone."""
    r = recipe.request
    values: dict[str, Any] = {
        "Steps": r.num_inference_steps,
        "Sampler": _sampler(r.scheduler),
        "CFG scale": None if r.guidance_scale is None else f"{r.guidance_scale:g}",
        "Seed": r.seed,
        "Size": f"{r.width}x{r.height}" if r.width and r.height else None,
        "Model hash": recipe.weights_sha256.get("unet", "")[:10] or None,
        "Model": recipe.model.replace("\\", "/").rpartition("/")[2] or None,
        "Clip skip": r.clip_skip + 1 if r.clip_skip else None,
        "Eta": f"{r.eta:g}" if r.eta else None,
        "CFG Rescale": f"{r.guidance_rescale:g}" if r.guidance_rescale else None,
        "RNG": "CPU",
        "Version": f"latentdiff {recipe.versions.get('latentdiff', '')}".strip(),
    }
    line = ", ".join(f"{k}: {_quoted(v)}" for k, v in values.items() if v is not None)
    negative = [f"{_NEGATIVE} {_spelled(r, r.negative_prompt)}"] if r.negative_prompt else []
    return "\n".join([_spelled(r, r.prompt), *negative, line])


def _sampler(scheduler: str | None) -> str | None:
    if scheduler is None:
        return None
    base = scheduler.removesuffix(names.KARRAS)
    return SAMPLERS.get(base, base) + (" Karras" if base != scheduler else "")


def _spelled(request: Request, prompt: str) -> str:
    """The prompt as A1111 must read it to mean the same; ComfyUI's weights it cannot tell apart."""
    plain = request.prompt_syntax == "plain"
    return re.sub(r"([\\()\[\]])", r"\\\1", prompt) if plain else prompt


def _quoted(value: object) -> str:
    text = str(value)
    if not any(c in text for c in ',:\n"'):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'


def read_parameters(text: str) -> Foreign:
    """What A1111's text (Forge's, SD.Next's) asks for; UserError when it is none."""
    lines = text.strip().split("\n")
    pairs = _pairs(lines[-1])
    if "Steps" not in pairs and "Seed" not in pairs:
        raise UserError("this is no `parameters` text of A1111: its last line names no steps")
    negative_at = next((k for k, s in enumerate(lines) if s.startswith(_NEGATIVE)), len(lines) - 1)
    prompt = "\n".join(lines[:negative_at]).strip()
    negative = "\n".join(lines[negative_at:-1]).removeprefix(_NEGATIVE).strip()
    notes: list[str] = []
    prompt = _without_loras(prompt, notes)
    values: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": _without_loras(negative, notes),
        "long_prompts": "chunk",
        **_numbers(pairs, notes),
    }
    if (name := pairs.get("Sampler")) is not None:
        values["scheduler"] = scheduler_of(name, pairs.get("Schedule type", ""), notes)
    if size := _SIZE.fullmatch(pairs.get("Size", "").strip()):
        values["width"], values["height"] = int(size[1]), int(size[2])
    notes += [f"{key}: {value} is not kept" for key, value in pairs.items() if key not in _READ]
    if pairs.get("VAE"):
        notes.append(f"VAE: {pairs['VAE']} is not loaded; the model's own is used")
    if pairs.get("RNG") != "CPU":
        notes.append(NOISE_SENTENCE)
    try:
        request = Request(**values)
    except UserError as error:
        raise UserError(f"its settings cannot be drawn here: {error}") from error
    model = pairs.get("Model", "")
    if pairs.get("Version", "").startswith("latentdiff"):
        return Foreign(program="latentdiff", request=request, model=model, notes=tuple(notes))
    return Foreign(program="A1111", request=request, model=model, notes=tuple(notes))


def _pairs(line: str) -> dict[str, str]:
    found = {}
    for key, value in _PAIR.findall(line):
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        found[key.strip()] = value.strip()
    return found


def _numbers(pairs: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """The numeric settings under our names; those that are no numbers are noted."""
    kinds: dict[str, tuple[str, type]] = {
        "Steps": ("num_inference_steps", int),
        "Seed": ("seed", int),
        "CFG scale": ("guidance_scale", float),
        "CFG Rescale": ("guidance_rescale", float),
        "Clip skip": ("clip_skip", int),
        "Eta": ("eta", float),
    }
    values: dict[str, Any] = {}
    for key, (ours, kind) in kinds.items():
        if key not in pairs:
            continue
        try:
            values[ours] = kind(pairs[key])
        except ValueError:
            notes.append(f"{key}: {pairs[key]} is no number and is not kept")
    if "clip_skip" in values:
        values["clip_skip"] = max(0, values["clip_skip"] - 1)  # A1111 counts the last layer as 1
    if values.get("seed", 0) > 2**32 - 1:
        notes.append(f"Seed: {values['seed']} is cut to its lowest 32 bits")
        values["seed"] &= 2**32 - 1
    return values


def scheduler_of(name: str, schedule: str, notes: list[str]) -> str | None:
    """Our scheduler for a sampler and a schedule of A1111 or ComfyUI; None, with a note, where
    there is none."""
    sampler, kind = name.strip(), schedule.strip().lower()
    for ending in ("karras", "exponential", "polyexponential", "sgm uniform"):
        if sampler.lower().endswith(f" {ending}"):
            sampler, kind = sampler[: -len(ending) - 1], ending
    candidates = [sampler]
    if kind == "karras":
        candidates.insert(0, f"{sampler} karras")
    elif kind not in ("", "automatic", "uniform", "normal"):
        notes.append(f"Schedule type: {schedule or kind} is not kept; the model's own is used")
    for candidate in candidates:
        with contextlib.suppress(UserError):
            found = names.canonical(candidate)
            if kind == "karras" and candidate == sampler:
                notes.append("Schedule type: Karras is not kept; the model's own is used")
            return found
    notes.append(f"Sampler: {name} is not known here; the model's own scheduler is used")
    return None


def _without_loras(prompt: str, notes: list[str]) -> str:
    for kind, name, scale in _LORA.findall(prompt):
        if kind == "lora":
            strength = (scale or "1").split(":")[0]
            notes.append(
                f"LoRA {name} is not loaded; give it by --lora {name}.safetensors:{strength}"
            )
        else:
            notes.append(f"{kind} {name} is not kept")
    return re.sub(r" {2,}", " ", _LORA.sub("", prompt)).strip(" ,") if notes else prompt
