"""Contexts that Python hands over in place of prompts, as diffusers' `prompt_embeds`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.pipelines.request import Given, Request


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


def check_embeds(request: Request, width: int) -> None:
    """UserError unless a resolved request's given contexts fit the network and one another."""
    given = request.given or Given()
    if given.prompt_embeds is None:
        if given.negative_prompt_embeds is not None:
            raise UserError("negative_prompt_embeds was given without prompt_embeds; give both")
        return
    if request.blend is not None and request.blend.prompt is not None:
        raise UserError("prompt_embeds cannot be blended with a prompt; blend them yourself")
    if request.guidance.active and given.negative_prompt_embeds is None:
        raise UserError(
            "prompt_embeds needs negative_prompt_embeds for guidance; give both, or guidance "
            "scale 1"
        )
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        embeds = getattr(given, name)
        if embeds is None:
            continue
        if embeds.ndim != 2 or embeds.shape != (given.prompt_embeds.shape[0], width):
            raise UserError(
                f"{name} has shape {tuple(embeds.shape)}; expected "
                f"({given.prompt_embeds.shape[0]}, {width})"
            )
        if not bool(torch.isfinite(embeds).all()):
            raise UserError(f"{name} holds NaN or infinity")


def context_of(requests: tuple[Request, ...]) -> Tensor | None:
    """Given contexts as the network is told them, (B, L, D) or (2B, L, D); None for prompts."""
    given = [request.given or Given() for request in requests]
    positive = [g.prompt_embeds for g in given if g.prompt_embeds is not None]
    if not positive:
        return None
    if not requests[0].guidance.active:
        return torch.stack(positive)
    negative = [g.negative_prompt_embeds for g in given if g.negative_prompt_embeds is not None]
    return torch.stack([*negative, *positive])
