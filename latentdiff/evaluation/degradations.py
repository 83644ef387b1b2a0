"""Pictures made a little worse, as an autoencoder or an unfinished generator would make them.

The judge must name a subject that is soft, blocky, off in colour or slightly bent, or it would
measure sharpness and not alignment. Every degradation here is linear in the picture but for the
bending, so a whole batch is two batched matrix products. What is drawn for a sample comes from
its own addressed stream; nothing is drawn on the device.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from latentdiff import seeding

# One row operator each, by name; the first is the identity.
OPERATORS: tuple[tuple[str, float, float], ...] = (
    ("identity", 0, 0),
    ("gauss", 0.6, 0),
    ("gauss", 1.0, 0),
    ("gauss", 1.5, 0),
    ("gauss", 2.0, 0),
    ("gauss", 2.7, 0),
    ("resample", 2, 0),
    ("resample", 4, 0),
    ("block_dct", 4, 1),
    ("block_dct", 4, 2),
    ("block_dct", 4, 3),
    ("block_dct", 8, 2),
    ("block_dct", 8, 3),
    ("block_dct", 8, 5),
)
NOISE_SIZE = 192
WARP_GRID = 5
# Rows: luma (BT.601) and two colour differences; the inverse restores R, G, B.
_TO_OPPONENT = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


def draw(run_seed: int, position: int) -> dict[str, NDArray[Any]]:
    """The degradation of the sample at `position`: three of eight stay clean, as they are.

    Returns `luma`, `chroma` (row-operator numbers), `gain`, `shift` (3,), `noise` (std, in units
    of [-1, 1]), `offset` (2,) into the noise bank, and `warp` (2, 5, 5), in pixels.
    """
    stream = seeding.generator(run_seed, "judge degradation", position)
    clean = stream.random() < 0.375
    luma = int(stream.integers(len(OPERATORS)))
    # Colour is stored more coarsely than light by every codec, and never more finely here.
    chroma = luma if stream.random() < 0.5 else int(stream.integers(1, len(OPERATORS)))
    gain = 1.0 + 0.12 * float(stream.standard_normal())
    shift = 0.04 * stream.standard_normal(1) + 0.03 * stream.standard_normal(3)
    noise = 0.08 * float(stream.random()) * (stream.random() < 0.5)
    offset = stream.integers(NOISE_SIZE - 128, size=2)
    bent = stream.random() < 0.5
    warp = float(bent) * 1.8 * stream.standard_normal((2, WARP_GRID, WARP_GRID))
    if clean:
        luma = chroma = 0
        gain, shift, noise, warp = 1.0, np.zeros(3), 0.0, np.zeros_like(warp)
    return {
        "luma": np.asarray(luma, np.int64),
        "chroma": np.asarray(chroma, np.int64),
        "gain": np.asarray(gain, np.float32),
        "shift": shift.astype(np.float32),
        "noise": np.asarray(noise, np.float32),
        "offset": offset.astype(np.int64),
        "warp": warp.astype(np.float32),
    }


class Degrade(nn.Module):
    """Applies drawn degradations to a batch; holds only constants, nothing is trained or saved."""

    operators: Tensor
    noise_bank: Tensor
    to_opponent: Tensor
    from_opponent: Tensor

    def __init__(self, size: int = 128) -> None:
        super().__init__()
        self.size = size
        rows = np.stack([row_operator(kind, size, a, b) for kind, a, b in OPERATORS])
        bank = seeding.standard_normal((3, NOISE_SIZE, NOISE_SIZE), 0, "judge noise bank")
        opponent = torch.tensor(_TO_OPPONENT, dtype=torch.float64)
        constants = {
            "operators": torch.from_numpy(rows.astype(np.float32)),
            "noise_bank": torch.from_numpy(bank),
            "to_opponent": opponent.float(),
            "from_opponent": torch.linalg.inv(opponent).float(),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, pixels: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """pixels (B, 3, H, H), [-1, 1], and stacked `draw` results -> the same, in [-1, 1]."""
        # The autocast of the loop would round pixels to bf16 before the judge sees them.
        with torch.autocast(device_type=pixels.device.type, enabled=False):
            x = self._bend(pixels.float(), drawn["warp"])
            x = self._soften(x, drawn["luma"], drawn["chroma"])
            x = x * drawn["gain"][:, None, None, None] + drawn["shift"][:, :, None, None]
            x = x + drawn["noise"][:, None, None, None] * self._noise(drawn["offset"])
            return x.clamp(-1.0, 1.0)

    def _bend(self, x: Tensor, warp: Tensor) -> Tensor:
        axis = (torch.arange(self.size, device=x.device) + 0.5) * (2.0 / self.size) - 1.0
        base = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
        size = (self.size, self.size)
        moved = functional.interpolate(warp, size=size, mode="bilinear", align_corners=True)
        grid = base + moved.permute(0, 2, 3, 1) * (2.0 / self.size)
        return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)

    def _soften(self, x: Tensor, luma: Tensor, chroma: Tensor) -> Tensor:
        opponent = torch.einsum("ij,bjhw->bihw", self.to_opponent, x)
        which = torch.stack([luma, chroma, chroma], dim=1)
        rows = self.operators[which]
        softened = rows @ opponent @ rows.transpose(-1, -2)
        return torch.einsum("ij,bjhw->bihw", self.from_opponent, softened)

    def _noise(self, offset: Tensor) -> Tensor:
        steps = torch.arange(self.size, device=offset.device)
        rows = (offset[:, 0, None] + steps)[:, :, None]
        columns = (offset[:, 1, None] + steps)[:, None, :]
        return self.noise_bank[:, rows, columns].transpose(0, 1)


def row_operator(kind: str, size: int, a: float, b: float) -> NDArray[np.float64]:
    """One degradation as a (size, size) matrix that acts on rows (and, transposed, on columns).

    "gauss" blurs by std a px; "resample" averages a px and interpolates back; "block_dct" keeps
    the b lowest of a cosine components in every block of a px, as a linear codec does. A flat
    picture stays as it is: every row sums to one.
    """
    place = np.arange(size, dtype=np.float64)
    if kind == "identity":
        return np.eye(size)
    if kind == "gauss":
        weights = np.exp(-((place[:, None] - place[None, :]) ** 2) / (2 * a * a))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float64)
    step = int(a)
    if kind == "resample":
        down = np.kron(np.eye(size // step), np.full((1, step), 1.0 / step))
        centres = (np.arange(size // step) + 0.5) * step - 0.5
        hat = np.maximum(0.0, 1.0 - np.abs(place[:, None] - centres[None, :]) / step)
        return np.asarray(hat / hat.sum(axis=1, keepdims=True) @ down, np.float64)
    if kind == "block_dct":
        n, k = np.arange(step) + 0.5, np.arange(step)
        basis = math.sqrt(2.0 / step) * np.cos(math.pi * np.outer(k, n) / step)
        basis[0] /= math.sqrt(2.0)
        kept = basis[: int(b)]
        return np.asarray(np.kron(np.eye(size // step), kept.T @ kept), np.float64)
    raise ValueError(f"unknown operator {kind!r}")
