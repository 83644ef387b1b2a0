"""Equal and nearly equal pictures of a data set, without comparing each with each.

Equal ones share a hash. Nearly equal ones have fingerprints that differ in few bits, so in some
order of the bits they share a long beginning and stand close to each other when sorted (Charikar
2002, section 4): every picture is compared with its next few neighbours in each of several sorted
orders, which costs O(n log n) however the pictures are distributed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.check import fingerprint

ORDERS = 20
NEIGHBOURS = 6
# Beyond these a pair is not looked at closely. Bits of 256; 8-bit steps of the luma at 4×4.
_NEAR_BITS = 48
_NEAR_LUMA = 32.0
_CHUNK = 4096

Pairs = NDArray[np.int64]


def equal_groups(hashes: NDArray[np.void]) -> list[NDArray[np.int64]]:
    """Rows (n,) of each value that occurs more than once, in order of the first row."""
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return _grouped(inverse, counts)


def near_pairs(descriptors: fingerprint.Descriptors) -> Pairs:
    """(m, 2) pairs a < b of pictures that look alike; rows are those of `descriptors` (n, CELLS).

    Of a group that looks alike, as many pairs as hold it together, and perhaps a few more. A few
    of all groups are missed.
    """
    bits = fingerprint.bits(descriptors)
    coarse = _coarse(descriptors)
    root = np.arange(len(descriptors))
    found = [np.empty((0, 2), np.int64)]
    seen = np.empty(0, np.int64)
    for key in _keys(bits):
        pairs = _neighbours(bits, np.argsort(key, kind="stable"))
        # What is connected already is not looked at: a thousand copies of one picture cost a few
        # comparisons each, not a thousand.
        pairs = pairs[root[pairs[:, 0]] != root[pairs[:, 1]]]
        codes = pairs[:, 0] * len(descriptors) + pairs[:, 1]
        fresh = ~np.isin(codes, seen)
        seen = np.concatenate([seen, codes[fresh]])
        new = _alike(descriptors, coarse, pairs[fresh])
        found.append(new)
        root = _roots(len(root), root[new])[root]
    return np.unique(np.concatenate(found), axis=0)


def _neighbours(bits: NDArray[np.uint64], order: NDArray[np.int64]) -> Pairs:
    """Pairs of rows that stand close in an order and differ in few bits, each once."""
    found = [np.empty((0, 2), np.int64)]
    for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
        a, b = order[:-step], order[step:]
        near = np.bitwise_count(bits[a] ^ bits[b]).sum(axis=1) <= _NEAR_BITS
        a, b = a[near], b[near]
        found.append(np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1))
    return np.concatenate(found)


def _alike(
    descriptors: fingerprint.Descriptors, coarse: NDArray[np.float32], pairs: Pairs
) -> Pairs:
    """The pairs that look alike, after a cheap test and a close one."""
    kept = [np.empty((0, 2), np.int64)]
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        change = coarse[chunk[:, 0]] - coarse[chunk[:, 1]]
        change -= change.mean(axis=1, keepdims=True)
        chunk = chunk[np.abs(change).max(axis=1) <= _NEAR_LUMA]
        kept.append(chunk[fingerprint.alike(*(descriptors[side] for side in chunk.T))])
    return np.concatenate(kept)


def groups(count: int, pairs: Pairs) -> list[NDArray[np.int64]]:
    """Rows 0 … count - 1 that pairs (m, 2) connect, in order of the first row; singles left out."""
    _, inverse, counts = np.unique(_roots(count, pairs), return_inverse=True, return_counts=True)
    return _grouped(inverse, counts)


def _roots(count: int, pairs: Pairs) -> NDArray[np.int64]:
    """(count,) the least row that each row is connected with."""
    root = np.arange(count)
    while len(pairs):  # each row takes the least root of its neighbours, then follows it up
        least = root.copy()
        np.minimum.at(least, pairs[:, 0], root[pairs[:, 1]])
        np.minimum.at(least, pairs[:, 1], root[pairs[:, 0]])
        # A root that was lowered lowers all that hang on it.
        np.minimum.at(least, root, least)
        least = least[least]
        if (least == root).all():
            break
        root = least
    return root


def _grouped(inverse: NDArray[np.int64], counts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(inverse, kind="stable")
    parts = np.split(order, np.cumsum(counts)[:-1])
    several = [np.asarray(part, np.int64) for part in parts if len(part) > 1]
    return sorted(several, key=lambda rows: int(rows[0]))


def _coarse(descriptors: fingerprint.Descriptors) -> NDArray[np.float32]:
    """(n, 16) luma at 4×4."""
    side = fingerprint.SIDE
    luma = descriptors[:, : side * side].reshape(-1, 4, side // 4, 4, side // 4)
    return luma.mean(axis=(2, 4), dtype=np.float32).reshape(-1, 16)


def _keys(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(ORDERS, n): 64 of the bits each, in a random order that is always the same."""
    draw = np.random.Generator(np.random.Philox(key=20260612))
    chosen = np.stack([draw.permutation(fingerprint.BITS)[:64] for _ in range(ORDERS)])
    keys = np.empty((ORDERS, len(bits)), np.uint64)
    for start in range(0, len(bits), 16384):
        flat = np.unpackbits(bits[start : start + 16384].view(np.uint8), axis=1)
        packed = np.packbits(flat[:, chosen], axis=2)  # (rows, ORDERS, 8)
        # Big-endian, so that the first bits of the order decide first.
        keys[:, start : start + 16384] = packed.view(">u8")[:, :, 0].T
    return keys
