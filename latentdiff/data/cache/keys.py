"""What names an entry of the latent cache: everything that its value depends on, hashed.

A key is 16 bytes of BLAKE2b over its parts, each but the last with its length before it, so that
no two lists of parts read the same. Nothing else decides whether an entry fits: a picture whose
bytes changed, another crop or other weights give another key, and the old entry is never met
again. Two of n keys collide with probability n² / 2^129: 10^-27 for a million.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16

Keys = NDArray[np.uint8]
"""Many keys: (n, 16) uint8."""


@functools.lru_cache(maxsize=1024)
def _begun(kind: str, *parts: bytes | int) -> hashlib.blake2b:
    """The hash of the parts that many keys share; to be copied, never to be updated."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES, person=kind.encode("ascii"))
    for part in parts:
        text = part if isinstance(part, bytes) else b"%d" % part
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest


def _key(begun: hashlib.blake2b, last: bytes) -> bytes:
    digest = begun.copy()
    digest.update(last)
    return digest.digest()


def picture_key(
    content_sha256: bytes,
    transform_id: str,
    bucket: tuple[int, int],
    flip: bool,
    encoder_hash: str,
) -> bytes:
    """Key of a picture's posterior moments.

    content_sha256: of the encoded picture's bytes, 32 of them. transform_id: what is done between
    bytes and pixels, by name. bucket: width and height in pixels that the picture is cut to.
    flip: whether it is mirrored. encoder_hash: of the autoencoder's encoder, and its precision.
    """
    assert len(content_sha256) == 32, len(content_sha256)
    width, height = bucket
    shared = (transform_id.encode("utf-8"), width, height, int(flip), encoder_hash.encode("ascii"))
    return _key(_begun("picture", *shared), content_sha256)


def text_key(caption: str, text_encoder_hash: str) -> bytes:
    """Key of a caption's context.

    text_encoder_hash: of text encoder and tokenizer, their precision, and what is done with
    captions that are too long.
    """
    # A lone surrogate (half of a character, from a broken caption file) has no UTF-8 of its own.
    words = caption.encode("utf-8", "surrogatepass")
    return _key(_begun("text", text_encoder_hash.encode("ascii")), words)


def stamp_key(stamp: str) -> bytes:
    """Key of what is remembered of a picture file; see `records.Source.stamp`."""
    return _key(_begun("stamp"), stamp.encode("utf-8", "surrogatepass"))


def stack(keys: Iterable[bytes]) -> Keys:
    """Keys as one array (n, 16) uint8."""
    joined = b"".join(keys)
    return np.frombuffer(joined, np.uint8).reshape(-1, KEY_BYTES)


def words(keys: Keys) -> NDArray[np.uint64]:
    """Keys as (n, 2) uint64, for sorting and comparing."""
    assert keys.dtype == np.uint8 and keys.ndim == 2 and keys.shape[1] == KEY_BYTES, keys.shape
    return np.ascontiguousarray(keys).view("<u8")


def sort_order(pairs: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A stable order that sorts keys, given as (n, 2) words."""
    found = np.argsort(pairs[:, 0], kind="stable")
    high, low = pairs[found, 0], pairs[found, 1]
    if ((high[1:] == high[:-1]) & (low[1:] < low[:-1])).any():
        # Two keys that agree in their first half: it takes a sort by both, three times slower.
        return np.lexsort((pairs[:, 1], pairs[:, 0]))
    return found


def first_of_each(keys: Keys) -> NDArray[np.int64]:
    """Places of the first occurrence of every distinct key, ascending."""
    pairs = words(keys)
    found = sort_order(pairs)
    ordered = pairs[found]
    new = np.ones(len(found), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.sort(found[new])
