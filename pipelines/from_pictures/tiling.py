"""Decode in tiles what the whole decoder would give: for pictures whose decoding fills memory.

A decoder is not local: its normalisations take statistics over the whole picture, and its middle
attends to all of it. So everything up to the last doubling runs whole, at half the size; only the
last block, where most of the memory goes, works in tiles. Each tile overlaps its neighbours by the
receptive field of that block, and the statistics of every normalisation are gathered over all tiles
first, in a pass of their own. The result equals the whole up to rounding; nothing is blended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.models.autoencoder import Autoencoder


@dataclass(frozen=True)
class _Statistics:
    """Of one normalisation over the whole picture: (B, groups) float64."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class _Tile:
    """A tile before the last doubling, in cells: the part shown, and the core inside it."""

    shown: tuple[slice, slice]
    core: tuple[slice, slice]
    place: tuple[slice, slice]
    """Of the core in the picture, in pixels; `core` is in the shown part's pixels."""


class _ReachedError(Exception):
    """The walk through the last block came to the first normalisation without statistics."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


@torch.no_grad()
def decode(autoencoder: Autoencoder, latents: Tensor, tile: int) -> Tensor:
    """Pixels (B, 3, H, W), as `autoencoder.decode` gives them, from scaled latents (B, C, h, w).

    tile: pixels of a tile's side, the overlap not counted. About half of the decoder is walked once
    for each normalisation of its last block (7 in Stable Diffusion): it takes some three times as
    long. Raises UserError for a decoder of another kind.
    """
    decoder = autoencoder.vae.decoder
    _check(decoder)
    x = _first_half(autoencoder, latents)
    height, width = x.shape[-2] * 2, x.shape[-1] * 2
    tiles = list(_tiles(x.shape[-2], x.shape[-1], max(1, tile // 2), _overlap(decoder)))
    known: list[_Statistics] = []
    for norm in _norms(decoder):
        known.append(_gather(decoder, norm, x, tiles, known))
    out = x.new_empty(x.shape[0], int(decoder.conv_out.out_channels), height, width)
    for one in tiles:
        pixels = _last_half(decoder, x[..., *one.shown], known)
        out[..., *one.place] = pixels[..., *one.core]
    return out


def _check(decoder: Any) -> None:
    kinds = [type(block).__name__ for block in decoder.up_blocks]
    if len(kinds) < 2 or any(kind != "UpDecoderBlock2D" for kind in kinds[-2:]):
        raise UserError(
            f"a decoder of {', '.join(kinds)} cannot work in tiles; leave decode_tile out"
        )


def _first_half(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """What stands before the last doubling, (B, C, H/2, W/2), of the whole picture."""
    vae = autoencoder.vae
    raw = latents / autoencoder.scaling_factor
    x = vae.decoder.conv_in(raw if vae.post_quant_conv is None else vae.post_quant_conv(raw))
    x = vae.decoder.mid_block(x, None)
    for block in vae.decoder.up_blocks[:-2]:
        x = block(x, None)
    for resnet in vae.decoder.up_blocks[-2].resnets:
        x = resnet(x, None)
    return x


def _norms(decoder: Any) -> list[Any]:
    """The normalisations after the last doubling, in the order they are met."""
    inside = [norm for r in decoder.up_blocks[-1].resnets for norm in (r.norm1, r.norm2)]
    return [*inside, decoder.conv_norm_out]


def _last_half(decoder: Any, x: Tensor, known: list[_Statistics]) -> Tensor:
    """From before the last doubling to pixels; _ReachedError at a normalisation not yet known."""
    met = iter(known)

    def normalised(norm: Any, x: Tensor) -> Tensor:
        statistics = next(met, None)
        if statistics is None:
            raise _ReachedError(x)
        return _normalise(norm, x, statistics)

    for upsampler in decoder.up_blocks[-2].upsamplers:
        x = upsampler(x)
    for r in decoder.up_blocks[-1].resnets:
        h = r.conv1(r.nonlinearity(normalised(r.norm1, x)))
        h = r.conv2(r.nonlinearity(normalised(r.norm2, h)))
        shortcut = x if r.conv_shortcut is None else r.conv_shortcut(x)
        x = (shortcut + h) / r.output_scale_factor
    return decoder.conv_out(decoder.conv_act(normalised(decoder.conv_norm_out, x)))


def _normalise(norm: Any, x: Tensor, statistics: _Statistics) -> Tensor:
    """GroupNorm with statistics of the whole picture (Wu & He 2018, eq. 1 and 2)."""
    groups = x.unflatten(1, (norm.num_groups, -1))
    mean = statistics.mean.to(x)[..., None, None, None]
    scale = (statistics.variance + norm.eps).rsqrt().to(x)[..., None, None, None]
    plain = ((groups - mean) * scale).flatten(1, 2)
    return plain * norm.weight[:, None, None] + norm.bias[:, None, None]


def _gather(
    decoder: Any, norm: Any, x: Tensor, tiles: list[_Tile], known: list[_Statistics]
) -> _Statistics:
    """Mean and variance of what comes to the first normalisation after the known ones."""
    total = torch.zeros(x.shape[0], norm.num_groups, dtype=torch.float64)
    squares, count = torch.zeros_like(total), 0
    for one in tiles:
        try:
            _last_half(decoder, x[..., *one.shown], known)
        except _ReachedError as reached:
            core = reached.x[..., *one.core]
        groups = core.unflatten(1, (norm.num_groups, -1)).flatten(2).double()
        total += groups.sum(dim=2).cpu()
        squares += groups.square().sum(dim=2).cpu()
        count += groups.shape[2]
    mean = total / count
    return _Statistics(
        mean.to(x.device), (squares / count - mean.square()).clamp(min=0).to(x.device)
    )


def _overlap(decoder: Any) -> int:
    """Cells before the last doubling that a pixel depends on beside its own: every 3x3 convolution
    after it reaches one pixel further, and two pixels make a cell."""
    pixels = 2 + 2 * len(decoder.up_blocks[-1].resnets)
    return -(-pixels // 2) + 1


def _tiles(height: int, width: int, core: int, overlap: int) -> Iterator[_Tile]:
    """Tiles that cover (height, width) cells, row by row."""
    for top in range(0, height, core):
        for left in range(0, width, core):
            rows = _along(top, core, overlap, height)
            columns = _along(left, core, overlap, width)
            yield _Tile(*((a, b) for a, b in zip(rows, columns, strict=True)))


def _along(start: int, core: int, overlap: int, end: int) -> tuple[slice, slice, slice]:
    stop = min(start + core, end)
    first, last = max(0, start - overlap), min(end, stop + overlap)
    inside = slice(2 * (start - first), 2 * (stop - first))
    return slice(first, last), inside, slice(2 * start, 2 * stop)
