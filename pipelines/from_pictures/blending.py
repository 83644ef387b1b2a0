"""Between two seeds and two prompts: noise along the sphere, contexts along the line."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.pipelines.walk.batch import Batch
from latentdiff.sampling import SeededNoise


def slerp(one: Tensor, other: Tensor, amount: float) -> Tensor:
    """The point at `amount` (0 … 1) on the great circle from `one` to `other`, of one shape.

    sin((1−u)θ)/sin θ · a + sin(uθ)/sin θ · b (Shoemake 1985), θ the angle between the two as
    vectors: two draws of unit noise stay a draw of unit noise on the way, which a mean would not.
    """
    if amount in (0.0, 1.0):
        return other if amount else one
    a, b = one.double(), other.double()
    cosine = (a.flatten() @ b.flatten()) / (a.norm() * b.norm()).clamp(min=1e-300)
    angle = torch.arccos(cosine.clamp(-1.0, 1.0))
    if float(torch.sin(angle)) < 1e-6:
        return torch.lerp(a, b, amount).to(one.dtype)
    near, far = torch.sin((1.0 - amount) * angle), torch.sin(amount * angle)
    return ((near * a + far * b) / torch.sin(angle)).to(one.dtype)


def starting_noise(batch: Batch, noise: SeededNoise) -> Tensor:
    """x_T of unit variance (B, C, h, w): given, or the seeds' first draw, on its way to a blend's
    other seed."""
    given = [r.given.latents for r in batch.requests if r.given and r.given.latents is not None]
    unit = torch.stack(given).to(noise.device, torch.float32) if given else noise.draw()
    rows = []
    for row, request in zip(unit, batch.requests, strict=True):
        blend = request.blend
        if blend is not None and blend.seed is not None and blend.amount > 0.0:
            other = SeededNoise([blend.seed], noise.shape, noise.device).draw()[0]
            row = slerp(row, other, blend.amount)
        rows.append(row)
    return torch.stack(rows)


def far_end(batch: Batch) -> Batch | None:
    """The batch with the prompts at the far ends of its blends; None when no prompt is blended."""
    if not any(r.blend and r.blend.prompt is not None and r.blend.amount for r in batch.requests):
        return None
    return Batch(
        tuple(
            replace(r, prompt=r.blend.prompt) if r.blend and r.blend.prompt is not None else r
            for r in batch.requests
        ),
        batch.places,
    )


def blended(context: Tensor, other: Tensor, batch: Batch) -> Tensor:
    """Contexts (B, L, D) or (2B, L, D), each on its way to the far end's."""
    if context.shape != other.shape:
        raise UserError(
            "the two prompts take different numbers of chunks; blend prompts of one length, or "
            "let them be cut (long_prompts truncate)"
        )
    amounts = torch.tensor([r.blend.amount if r.blend else 0.0 for r in batch.requests])
    amounts = amounts.repeat(len(context) // len(amounts)).to(context).view(-1, 1, 1)
    return torch.lerp(context, other, amounts)
