"""Contexts in place of prompts, as diffusers' `prompt_embeds`: from Python, or from a file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.files import sha256_file
from latentdiff.models import weights
from latentdiff.models.single_files.single_file import refuse_pickle
from latentdiff.pipelines.request import Given, Request

NAMES = ("prompt_embeds", "negative_prompt_embeds")


@dataclass(frozen=True, eq=False)
class Contexts:
    """positive, negative: (L, D), in place of the prompt and of the negative prompt."""

    positive: Tensor | None
    negative: Tensor | None
    sha256: str = ""


def given_embeds(
    requests: list[Request], prompt_embeds: Tensor | None, negative_prompt_embeds: Tensor | None
) -> list[Request]:
    """The requests with contexts (L, D), or one each (B, L, D)."""
    positive = _rows(prompt_embeds, len(requests), "prompt_embeds")
    negative = _rows(negative_prompt_embeds, len(requests), "negative_prompt_embeds")
    return [
        replace(
            request,
            given=replace(
                request.given or Given(), prompt_embeds=one, negative_prompt_embeds=other
            ),
        )
        for request, one, other in zip(requests, positive, negative, strict=True)
    ]


def _rows(embeds: Tensor | None, count: int, name: str) -> Sequence[Tensor | None]:
    if embeds is None:
        return [None] * count
    rows = embeds[None] if embeds.ndim == 2 else embeds
    if rows.ndim != 3 or rows.shape[0] not in (1, count):
        raise UserError(
            f"{name} has shape {tuple(embeds.shape)} for {count} pictures; "
            "expected (tokens, width), or one such row each"
        )
    return list(rows.expand(count, -1, -1))


def read_contexts(path: str | Path) -> Contexts:
    """The contexts in a file, (L, D) or (1, L, D) each; UserError for what holds none."""
    place = Path(path).expanduser()
    if not place.is_file():
        raise UserError(f"there are no contexts at {path}; expected a .safetensors file")
    state = place.stat()
    return _read(place.absolute(), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4)
def _read(path: Path, mtime_ns: int, size: int) -> Contexts:
    from safetensors.torch import load_file

    refuse_pickle(path)
    with weights.reading(path):
        tensors = load_file(path)
    if "prompt_embeds" not in tensors or not set(tensors) <= set(NAMES):
        held = ", ".join(sorted(tensors)[:4]) or "nothing"
        raise UserError(
            f"{path} holds {held}; expected prompt_embeds, and negative_prompt_embeds for guidance"
        )
    found = {}
    for name, tensor in tensors.items():
        row = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
        if row.ndim != 2 or not row.is_floating_point():
            raise UserError(
                f"{path}: {name} has shape {tuple(tensor.shape)} of {tensor.dtype}; expected "
                "numbers (tokens, width)"
            )
        found[name] = row.float()
    return Contexts(found["prompt_embeds"], found.get(NAMES[1]), sha256_file(path))


def resolved(request: Request) -> Request:
    """The request with the hash of its file of contexts; UserError when that is another one."""
    if request.embeds is None:
        return request
    if request.given is not None and request.given.prompt_embeds is not None:
        raise UserError("contexts were given twice, in Python and in a file; give one")
    found, told = read_contexts(request.embeds.file), request.embeds.file_sha256
    if told and told != found.sha256:
        raise UserError(
            f"{request.embeds.file} is not the file that was drawn from: its SHA-256 is "
            f"{found.sha256[:12]}…, expected {told[:12]}…"
        )
    return replace(request, embeds=replace(request.embeds, file_sha256=found.sha256))


def contexts_of(request: Request) -> Contexts:
    """What stands for the prompts of a request, wherever it comes from."""
    if request.embeds is not None:
        return read_contexts(request.embeds.file)
    given = request.given or Given()
    return Contexts(given.prompt_embeds, given.negative_prompt_embeds)


def check_embeds(request: Request, width: int) -> None:
    """UserError unless a resolved request's contexts fit the network and one another."""
    found = contexts_of(request)
    if found.positive is None:
        if found.negative is not None:
            raise UserError("negative_prompt_embeds was given without prompt_embeds; give both")
        return
    if request.blend is not None and request.blend.prompt is not None:
        raise UserError("prompt_embeds cannot be blended with a prompt; blend them yourself")
    if request.source is not None and request.source.inversion is not None:
        raise UserError("a picture is edited by prompts; leave prompt_embeds out")
    if request.guidance.active and found.negative is None:
        raise UserError(
            "prompt_embeds needs negative_prompt_embeds for guidance; give both, or guidance "
            "scale 1"
        )
    for name, context in zip(NAMES, (found.positive, found.negative), strict=True):
        if context is None:
            continue
        if context.ndim != 2 or context.shape != (found.positive.shape[0], width):
            raise UserError(
                f"{name} has shape {tuple(context.shape)}; expected "
                f"({found.positive.shape[0]}, {width})"
            )
        if not bool(torch.isfinite(context).all()):
            raise UserError(f"{name} holds NaN or infinity")


def context_of(requests: tuple[Request, ...]) -> Tensor | None:
    """Contexts as the network is told them, (B, L, D) or (2B, L, D); None for prompts."""
    found = [contexts_of(request) for request in requests]
    positive = [one.positive for one in found if one.positive is not None]
    if not positive:
        return None
    if not requests[0].guidance.active:
        return torch.stack(positive)
    negative = [one.negative for one in found if one.negative is not None]
    return torch.stack([*negative, *positive])
