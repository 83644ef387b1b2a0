"""WebDataset tar shards on disk, indexed once by their headers, then read at random by offset.

So a run resumes exactly, and every shuffle is a full one. What a sample is: see `tar_samples`.
"""

from __future__ import annotations

import os
import weakref
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff.data.decode.regular import file_state, unreadable
from latentdiff.data.records import BadPicture
from latentdiff.data.sources.dataset import short_names
from latentdiff.data.sources.listed import Listed
from latentdiff.data.sources.packed import (
    Captions,
    CaptionsBuilder,
    PackedStrings,
    Problems,
    counted,
    printable,
)
from latentdiff.data.sources.tars.tar_packed import is_packed, unpack
from latentdiff.data.sources.tars.tar_samples import TarOptions, shard_samples
from latentdiff.errors import UserError


class TarSource(Listed):
    """Samples of tar shards; a Source. files: where the bytes are (unpacked, for .tar.gz)."""

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        shards: NDArray[np.int32],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        keys: PackedStrings,
        captions: Captions,
        problems: Problems,
        shown: Sequence[Path],
    ) -> None:
        super().__init__(name, captions, problems, counted(len(files), "tar shard"))
        self._files = [str(f.resolve()) for f in files]
        self._shards, self._offsets, self._sizes, self._keys = shards, offsets, sizes, keys
        self._shown, self._originals = short_names(shown), [str(f.resolve()) for f in shown]

    def id(self, row: int) -> str:
        """ "shard.tar#key"."""
        return f"{self._shown[self._shards[row]]}#{printable(self._keys[row])}"

    def read(self, row: int) -> bytes:
        file, offset = self._files[self._shards[row]], int(self._offsets[row])
        try:
            return read_at(file, offset, int(self._sizes[row]))
        except OSError as error:
            raise unreadable(error) from error

    def stamp(self, row: int) -> str:
        original = self._originals[self._shards[row]]
        try:
            status = Path(original).stat()
        except OSError:
            return f"{printable(original)}|missing"
        offset = int(self._offsets[row])
        return f"{printable(original)}|{file_state(status)}|{offset}"


def read_at(file: str, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset`. Raises BadPicture "truncated", OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise BadPicture("truncated", f"the shard ends after {len(data):,} of {size:,} bytes")
    return data


def open_tar(
    name: str,
    files: Sequence[Path],
    *,
    template: str = "a photo of a {label}",
    caption_column: str | None = None,
    image_column: str | None = None,
    need_captions: bool = True,
    allow_gif_tiff: bool = False,
) -> TarSource:
    """Index the shards. image_column, caption_column: the ending of the members that hold them,
    or the key in the .json ones. Raises UserError when no sample can be used."""
    options = TarOptions(
        template=template,
        caption_column=caption_column,
        image_column=image_column,
        need_captions=need_captions,
        allow_gif_tiff=allow_gif_tiff,
    )
    problems, captions = Problems(), CaptionsBuilder()
    keys: list[bytes] = []
    shards, offsets, sizes = array("i"), array("q"), array("q")
    unpacked = []
    for number, (file, shown) in enumerate(zip(files, short_names(files), strict=True)):
        where = unpack(file, shown, problems) if is_packed(file) else file
        unpacked.append(where)
        for sample in shard_samples(where, shown, options, problems):
            captions.add(len(keys), sample.captions)
            keys.append(sample.key)
            shards.append(number)
            offsets.append(sample.offset)
            sizes.append(sample.size)
    if not keys:
        raise UserError(
            f"{name} holds no sample that can be used{problems.summary()}; expected members such "
            "as 0001.jpg and 0001.txt"
        )
    source = TarSource(
        name,
        unpacked,
        np.frombuffer(shards, np.int32),
        np.frombuffer(offsets, np.int64),
        np.frombuffer(sizes, np.int64),
        PackedStrings.of(keys),
        captions.build(len(keys)),
        problems,
        files,
    )
    for where, file in zip(unpacked, files, strict=True):
        if where is not file:
            weakref.finalize(source, _remove, str(where), os.getpid())
    return source


def _remove(file: str, owner: int) -> None:
    # A forked worker that ends must not take the file from the others.
    if os.getpid() == owner:
        Path(file).unlink(missing_ok=True)
