"""The latent cache's files: many arrays, with their keys and checksums, in one safetensors file.

A shard is written once and never changed. Its tensors, in the file's order:

    starts  (n,) int64      where an entry's values begin, counted in values
    keys    (n, 16) uint8   what each entry is the value of
    shapes  (n, 3) int32    its shape; unused dimensions are 0
    crc32   (n,) uint32     checksum of its values
    values  (total,)        all entries one after the other, so that one shard holds many shapes

Three checksums guard it. The metadata holds a BLAKE2b of the four small tensors, checked with the
file's size whenever a shard is opened; an entry's CRC-32 is checked whenever it is read; the
file's name is the SHA-256 of its whole content, for `verify` and for copies between machines.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff import files
from latentdiff.data.cache.keys import KEY_BYTES, Keys, stack
from latentdiff.errors import UserError

FORMAT, VERSION = "latentdiff-cache", "1"
SUFFIX = ".safetensors"
DIMENSIONS = 3
ENTRY_BYTES = 8 + KEY_BYTES + 4 * DIMENSIONS + 4
"""Bytes of an entry in the small tensors."""
LARGEST_HEADER = 1 << 16

Array = NDArray[np.float32] | NDArray[np.uint8]

_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}


class DamagedShard(UserError):  # noqa: N818  (it names a thing, and every UserError is an error)
    """A shard that is not what was written; the message names the file and says what is wrong."""


@dataclass(frozen=True)
class Index:
    """The small tensors of a shard; see the module."""

    starts: NDArray[np.int64]
    keys: Keys
    shapes: NDArray[np.int32]
    crc32: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Values of each entry."""
        return np.where(self.shapes > 0, self.shapes, 1).prod(axis=1, dtype=np.int64)

    def to_bytes(self) -> bytes:
        return b"".join(a.tobytes() for a in (self.starts, self.keys, self.shapes, self.crc32))


@dataclass(frozen=True)
class Shard:
    """An opened shard: its index in memory, its `total` values on disk from `offset` on."""

    path: Path
    dtype: np.dtype
    index: Index
    offset: int
    total: int

    @property
    def bytes(self) -> int:
        """Bytes of values."""
        return self.total * self.dtype.itemsize

    def map(self) -> NDArray:
        """All values, memory-mapped, (total,)."""
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.total,))


def write_shard(
    folder: Path, kind: str, keys: Sequence[bytes], arrays: Sequence[Array]
) -> tuple[Path, Index]:
    """Publish a shard of one entry or more in `folder`, whole or not at all; returns its path.

    kind: what the values are, such as "moments". arrays: float32, or all uint8, of up to three
    dimensions each. Raises UserError when the place cannot be written.
    """
    assert len(keys) == len(arrays) > 0, (len(keys), len(arrays))
    dtype = np.dtype(arrays[0].dtype)
    name = next(name for name, known in _DTYPES.items() if known == dtype)
    assert all(a.dtype == dtype and 1 <= a.ndim <= DIMENSIONS and a.size for a in arrays)
    buffers = [np.ascontiguousarray(a).data.cast("B") for a in arrays]
    ends = np.cumsum([a.size for a in arrays], dtype=np.int64)
    index = Index(
        starts=np.concatenate([[0], ends[:-1]]).astype(np.int64),
        keys=stack(keys),
        shapes=np.array([a.shape + (0,) * (DIMENSIONS - a.ndim) for a in arrays], np.int32),
        crc32=np.array([zlib.crc32(b) for b in buffers], np.uint32),
    )
    small = index.to_bytes()
    head = _header(kind, name, len(keys), int(ends[-1]), _digest(small))
    whole = hashlib.sha256(head + small)
    for buffer in buffers:
        whole.update(buffer)
    path = folder / f"{whole.hexdigest()}{SUFFIX}"
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(head + small)
        for buffer in buffers:
            file.write(buffer)
    return path, index


def _digest(small: bytes) -> str:
    return hashlib.blake2b(small, digest_size=16).hexdigest()


def _header(kind: str, dtype: str, n: int, total: int, digest: str) -> bytes:
    """The safetensors header, length first, padded so that the data begins at a multiple of 8."""
    table: dict[str, object] = {
        "__metadata__": {
            "format": FORMAT,
            "version": VERSION,
            "kind": kind,
            "entries": str(n),
            "index_blake2b": digest,
        }
    }
    end = 0
    for name, code, shape, size in (
        ("starts", "I64", [n], 8 * n),
        ("keys", "U8", [n, KEY_BYTES], KEY_BYTES * n),
        ("shapes", "I32", [n, DIMENSIONS], 4 * DIMENSIONS * n),
        ("crc32", "U32", [n], 4 * n),
        ("values", dtype, [total], _DTYPES[dtype].itemsize * total),
    ):
        table[name] = {"dtype": code, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(table, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def open_shard(path: Path, kind: str) -> Shard:
    """Read a shard's header and index, and check all but its values.

    Raises DamagedShard when the file is cut, longer, or its header or index differ from what was
    written; FileNotFoundError.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= LARGEST_HEADER:
            raise DamagedShard(f"{path} is damaged: no header")
        text = file.read(length)
        n, total, dtype, digest = _parse(path, text, kind)
        offset = 8 + length + ENTRY_BYTES * n
        expected = offset + total * _DTYPES[dtype].itemsize
        if size != expected:
            raise DamagedShard(f"{path} is damaged: {size} bytes, {expected} were written")
        small = file.read(ENTRY_BYTES * n)
    # What would have been written is compared whole, so no byte of the header can have changed.
    if _header(kind, dtype, n, total, digest)[8:] != text or _digest(small) != digest:
        raise DamagedShard(f"{path} is damaged: its index differs from what was written")
    cuts = np.cumsum([0, 8 * n, KEY_BYTES * n, 4 * DIMENSIONS * n, 4 * n])
    parts = [small[a:b] for a, b in pairwise(cuts)]
    index = Index(
        starts=np.frombuffer(parts[0], "<i8"),
        keys=np.frombuffer(parts[1], np.uint8).reshape(n, KEY_BYTES),
        shapes=np.frombuffer(parts[2], "<i4").reshape(n, DIMENSIONS),
        crc32=np.frombuffer(parts[3], "<u4"),
    )
    return Shard(path=path, dtype=_DTYPES[dtype], index=index, offset=offset, total=total)


def _parse(path: Path, text: bytes, kind: str) -> tuple[int, int, str, str]:
    """Entries, values, their dtype and the index's digest, as the header gives them."""
    try:
        table = json.loads(text)
        metadata = table["__metadata__"]
        form, version, found = (metadata[k] for k in ("format", "version", "kind"))
        n, digest = int(metadata["entries"]), str(metadata["index_blake2b"])
        (total,) = map(int, table["values"]["shape"])
        dtype = str(table["values"]["dtype"])
        assert n > 0 and total > 0 and dtype in _DTYPES
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise DamagedShard(f"{path} is damaged: its header cannot be read") from None
    # A newer version would be found in cache.json first: here it is a flipped bit.
    if (form, version) != (FORMAT, VERSION):
        raise DamagedShard(f"{path} is damaged: its header says {form!r}, version {version!r}")
    if found != kind:
        raise DamagedShard(f"{path} is damaged: it says it holds {found!r}, not {kind}")
    return n, total, dtype, digest


def read_entry(shard: Shard, values: NDArray, number: int) -> Array:
    """Entry `number` of a shard, copied out of its mapped `values` and checked.

    Raises DamagedShard when its checksum is wrong.
    """
    start = int(shard.index.starts[number])
    shape = tuple(int(d) for d in shard.index.shapes[number] if d > 0)
    # A copy first: what is checked is then what is used, whatever happens to the file meanwhile.
    copied = np.array(values[start : start + int(np.prod(shape))])
    if zlib.crc32(copied.data.cast("B")) != int(shard.index.crc32[number]):
        raise DamagedShard(f"{shard.path} is damaged: entry {number} has a wrong checksum")
    return copied.reshape(shape)


def check_whole(path: Path) -> None:
    """Hash a shard's every byte. Raises DamagedShard when they are not what its name says."""
    if files.sha256_file(path) != path.name.removesuffix(SUFFIX):
        raise DamagedShard(f"{path} is damaged: its SHA-256 is not its name")
