"""Losses of fixed (picture, t, ε) pairs: what a validation measures, at which timesteps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Group = Literal["train", "held-out"]
GROUPS: tuple[Group, ...] = ("held-out", "train")
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class PairedLosses:
    """Losses of fixed (picture, t, ε) pairs at one step.

    ids: each pair's picture, n of them; a picture may come several times.
    t: (n,) integers, 0 … num_train_timesteps - 1.
    losses: (n,) float64; not finite where the network broke down.
    group: "train" for pictures that are trained on, "held-out" for others.
    """

    ids: tuple[str, ...]
    t: NDArray[np.int64]
    losses: NDArray[np.float64]
    group: tuple[Group, ...]
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        n = len(self.ids)
        sizes = {"t": self.t.shape, "losses": self.losses.shape, "group": (len(self.group),)}
        for name, shape in sizes.items():
            if shape != (n,):
                raise ValueError(f"{name} has shape {shape}, expected ({n},) as for ids")
        unknown = sorted(set(self.group) - set(GROUPS))
        if unknown:
            raise ValueError(f"unknown group {unknown[0]!r}, expected one of {GROUPS}")
        if n and not (self.t.min() >= 0 and self.t.max() < self.num_train_timesteps):
            raise ValueError(f"t is outside 0 … {self.num_train_timesteps - 1}")

    def same_pairs(self, other: PairedLosses) -> bool:
        """Whether both measured the same pictures at the same timesteps, in the same order."""
        return (
            self.ids == other.ids
            and self.group == other.group
            and self.num_train_timesteps == other.num_train_timesteps
            and bool(np.array_equal(self.t, other.t))
        )

    def bin_edges(self, bins: int) -> list[tuple[int, int]]:
        """`bins` ranges [low, high) of equal width that cover all timesteps."""
        T = self.num_train_timesteps
        return [(T * k // bins, T * (k + 1) // bins) for k in range(bins)]


def spread_timesteps(pictures: int, per_picture: int, num_train_timesteps: int) -> NDArray[Any]:
    """Fixed timesteps (pictures, per_picture) int64 that cover all t evenly.

    Each picture gets one timestep in each of `per_picture` equal ranges; its place in the range
    steps by the golden ratio from picture to picture, the evenest known way to fill an interval
    one point at a time. So any count of pictures sees all noise levels, and each bin its share.
    """
    offset = (0.5 + _GOLDEN * np.arange(pictures)) % 1.0
    places = (np.arange(per_picture)[None, :] + offset[:, None]) / per_picture
    found = np.floor(places * num_train_timesteps).astype(np.int64)
    return np.minimum(found, num_train_timesteps - 1)
