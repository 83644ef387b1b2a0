"""Every random draw, addressed by counter.

A draw is a pure function of (run seed, purpose, address), where the address is what identifies
it: a sample id, an epoch, a step. Nothing about random state is ever saved; batch size, worker
count and process count cannot change which numbers a sample meets.

The engine is Philox-4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
under a 128-bit key. The key is BLAKE2b of the whole address, so two addresses collide with
probability 2^-128 a pair; a 32-bit seed, as torch's CPU generator keeps, would collide after some
77,000 samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentdiff.errors import UserError

Address = int | str

MAX_IMAGE_SEED = 2**32 - 1
"""torch's CPU generator keeps 32 bits of a seed: larger ones would repeat the noise of smaller."""


def check_image_seed(seed: int) -> int:
    """The seed of an image; UserError when it lies outside 0 … MAX_IMAGE_SEED."""
    if seed > MAX_IMAGE_SEED:
        raise UserError(
            f"seed {seed} is out of range; expected 0 … {MAX_IMAGE_SEED}: torch's generator keeps "
            f"32 bits, so {seed & MAX_IMAGE_SEED} draws what other programs draw for it"
        )
    if seed < 0:
        raise UserError(f"seed {seed} is out of range; expected 0 … {MAX_IMAGE_SEED}")
    return seed


def key(run_seed: int, purpose: str, *address: Address) -> int:
    """The 128-bit Philox key of one draw.

    The encoding is injective: each part carries its type, and strings are length-prefixed, so
    (1, "2") and ("1", 2) are different draws.
    """
    parts = [_encode(run_seed), _encode(purpose), *(_encode(part) for part in address)]
    digest = hashlib.blake2b(b"".join(parts), digest_size=16).digest()
    return int.from_bytes(digest, "little")


def _encode(part: Address) -> bytes:
    if isinstance(part, str):
        text = part.encode("utf-8")
        return b"s%d:" % len(text) + text
    return b"i%d;" % int(part)


def generator(run_seed: int, purpose: str, *address: Address) -> np.random.Generator:
    """A fresh generator that stands at the start of this address's own stream."""
    return np.random.Generator(np.random.Philox(key=key(run_seed, purpose, *address)))


def standard_normal(
    shape: int | Sequence[int], run_seed: int, purpose: str, *address: Address
) -> NDArray[np.float32]:
    """Independent N(0, 1) draws of the given shape, float32."""
    draws: NDArray[np.float32] = generator(run_seed, purpose, *address).standard_normal(
        shape if isinstance(shape, int) else tuple(shape), dtype=np.float32
    )
    return draws


def uniform(run_seed: int, purpose: str, *address: Address) -> float:
    """One draw from [0, 1)."""
    return float(generator(run_seed, purpose, *address).random())


def integers(high: int, run_seed: int, purpose: str, *address: Address) -> int:
    """One draw from 0 … high - 1."""
    return int(generator(run_seed, purpose, *address).integers(high))


def permutation(n: int, run_seed: int, purpose: str, *address: Address) -> NDArray[np.int64]:
    """A random order of 0 … n - 1, int64."""
    return generator(run_seed, purpose, *address).permutation(n)
