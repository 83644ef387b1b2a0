"""WebDataset tar shards on disk, indexed once by their headers, then read at random by offset.

A sample is what shares a name up to the first dot of the last part ("0001.jpg", "0001.txt"), as
WebDataset has it. So a run resumes exactly, and every shuffle is a full one.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

import latentdiff.data.sources.text as text
from latentdiff.data.decode.regular import MAX_BYTES, file_state, unreadable
from latentdiff.data.records import BadPicture
from latentdiff.data.sources.dataset import short_names
from latentdiff.data.sources.listed import Listed
from latentdiff.data.sources.metadata import CAPTION_COLUMNS
from latentdiff.data.sources.packed import (
    Captions,
    CaptionsBuilder,
    PackedStrings,
    Problems,
    counted,
    printable,
)
from latentdiff.data.sources.tar_members import Member, Reader, TarDamage, members
from latentdiff.errors import UserError

PICTURES = {b"jpg", b"jpeg", b"png", b"webp", b"bmp"}
ON_REQUEST = {b"gif", b"tif", b"tiff"}
# Which member holds the caption, best first.
CAPTIONS = (b"txt", b"text", b"caption", b"json", b"cls")
_MAX_RATIO = 200  # unpacked to packed; pictures hardly pack at all
_MAX_UNPACKED = 8 << 30


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


@dataclass(frozen=True, kw_only=True)
class TarOptions:
    """Which members hold what. Columns: an ending, or a key of the .json members."""

    template: str = "a photo of a {label}"
    caption_column: str | None = None
    image_column: str | None = None
    need_captions: bool = True
    allow_gif_tiff: bool = False

    def __post_init__(self) -> None:
        text.check_template(self.template)


@dataclass(frozen=True, slots=True)
class Sample:
    """A usable sample of a shard: its key, its captions, where its picture stands."""

    key: bytes
    captions: list[str]
    offset: int
    size: int


def shard_samples(
    file: Path, shown: str, options: TarOptions, problems: Problems
) -> Iterator[Sample]:
    """The usable samples of a plain tar, in its order; the others go to `problems`."""
    parts = Parts(options)
    _index(file, shown, parts, problems)
    if not parts.keys:
        return
    with file.open("rb") as opened:
        for row, key in enumerate(parts.keys):
            where = f"{shown}#{printable(key)}"
            if parts.picture_offsets[row] < 0:
                problems.add(where, "picture-missing", "the sample has no usable picture")
                continue
            opened.seek(max(0, parts.caption_offsets[row]))
            found, findings = parts.captions(row, opened.read(parts.caption_sizes[row]))
            for f in findings:
                problems.add(where, f.code, f.reason, fatal=f.fatal and options.need_captions)
            if found or not options.need_captions:
                yield Sample(key, found, parts.picture_offsets[row], parts.picture_sizes[row])


class Parts:
    """The samples of one shard while it is walked: where each one's picture and caption stand."""

    def __init__(self, options: TarOptions) -> None:
        image, caption = options.image_column, options.caption_column
        self._options = options
        self._image = image.encode().lstrip(b".").lower() if image else None
        wanted = (caption.encode().lstrip(b".").lower(),) if caption else ()
        self._captions = (*wanted, *(c for c in CAPTIONS if c not in wanted))
        self._pictures = PICTURES | ON_REQUEST if options.allow_gif_tiff else PICTURES
        self.keys: list[bytes] = []
        self._folded: dict[bytes, int] = {}
        self._exact: dict[bytes, int] = {}  # of keys that differ from another one by case only
        self.picture_offsets, self.picture_sizes = array("q"), array("q")
        self.caption_offsets, self.caption_sizes = array("q"), array("q")
        self._caption_kinds = array("b")

    def add(self, member: Member) -> tuple[str, str, bool] | None:
        """Take a member in; (code, reason, fatal) when something is wrong with it."""
        folder, slash, base = member.name.rpartition(b"/")
        stem, dot, ending = base.partition(b".")
        ending = ending.lower()
        if not stem or not dot or folder.startswith(b"__MACOSX"):
            return None
        last = ending.rpartition(b".")[2]
        is_picture = ending == self._image if self._image else last in self._pictures
        kind = self._captions.index(last) if last in self._captions else None
        if not is_picture and kind is None:
            return None
        row, by_case = self._row(folder + slash + stem)
        note = None
        if by_case:
            note = ("names-by-case", "another sample's name differs by case only", False)
        if is_picture:
            if self.picture_offsets[row] >= 0:
                return "member-twice", "a second picture of one sample; the first is used", False
            if member.size == 0:
                return "empty", "the picture is empty (0 bytes)", True
            if member.size > MAX_BYTES:
                return "too-large", f"{member.size:,} bytes; at most {MAX_BYTES:,} are read", True
            self.picture_offsets[row], self.picture_sizes[row] = member.offset, member.size
        elif kind is not None:
            if self._caption_kinds[row] == kind:
                return "member-twice", "a second caption of one sample; the first is used", False
            if kind < self._caption_kinds[row]:
                self._caption_kinds[row] = kind
                self.caption_offsets[row] = member.offset
                self.caption_sizes[row] = min(member.size, text.MAX_SIDECAR + 1)
        return note

    def _row(self, key: bytes) -> tuple[int, bool]:
        """(the sample's row, whether it is new and differs from another by case only)."""
        folded = key.lower()
        row = self._folded.get(folded)
        if row is not None and self.keys[row] != key:
            row = self._exact.get(key)
            if row is not None:
                return row, False
            self._exact[key] = len(self.keys)
            return self._new(key), True
        if row is None:
            self._folded[folded] = len(self.keys)
            row = self._new(key)
        return row, False

    def _new(self, key: bytes) -> int:
        self.keys.append(key)
        for column in (self.picture_offsets, self.caption_offsets):
            column.append(-1)
        for column in (self.picture_sizes, self.caption_sizes):
            column.append(0)
        self._caption_kinds.append(127)
        return len(self.keys) - 1

    def captions(self, row: int, raw: bytes) -> tuple[list[str], list[text.Finding]]:
        """The captions in the bytes of a sample's caption member."""
        kind = self._caption_kinds[row]
        if kind == 127:
            return [], [text.Finding("caption-missing", "the sample has no .txt or .json", True)]
        return _captions_in(self._captions[kind], raw, self._options)


def _captions_in(
    ending: bytes, raw: bytes, options: TarOptions
) -> tuple[list[str], list[text.Finding]]:
    """The captions of a .txt (one a line), .json (by key) or .cls (a class) member."""
    if ending not in (b"json", b"cls"):
        return text.from_file(raw)
    if ending == b"cls":
        labels, findings = text.from_file(raw)
        return [text.from_label(label, options.template) for label in labels], findings
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return [], [text.Finding("caption-missing", "the sample's .json is damaged", True)]
    if isinstance(value, dict):
        wanted = (options.caption_column, *CAPTION_COLUMNS)
        value = next((value[c] for c in wanted if c is not None and c in value), None)
    return text.from_value(value)


def _index(file: Path, shown: str, parts: Parts, problems: Problems) -> None:
    """Walk one shard into `parts`; what is wrong with it goes to `problems`."""
    try:
        with file.open("rb") as opened:
            for member in members(Reader(opened, seekable=True)):
                found = (*member.problem, True) if member.problem else parts.add(member)
                if found is not None:
                    where = f"{shown}#{printable(member.name)[:300]}"
                    problems.add(where, found[0], found[1], fatal=found[2])
    except TarDamage as damage:
        problems.add(shown, damage.code, str(damage), fatal=damage.fatal)
    except OSError as error:
        problem = unreadable(error)
        problems.add(shown, problem.code, str(problem))


def is_packed(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(6)
    if head[:3] == b"BZh" or head[:4] == b"\x28\xb5\x2f\xfd" or head == b"\xfd7zXZ\0":
        raise UserError(f"{file} is packed by bzip2, zstd or xz; unpack it to a .tar first")
    return head[:2] == b"\x1f\x8b"


def unpack(file: Path, shown: str, problems: Problems) -> Path:
    """A .tar.gz cannot be read at random: its plain tar, in the folder for temporary files. What
    stands before any damage is kept."""
    descriptor, name = tempfile.mkstemp(prefix="latentdiff-", suffix=".tar")
    try:
        with os.fdopen(descriptor, "wb") as target, file.open("rb") as packed:
            damage = _gunzip(packed, target, file.stat().st_size)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise UserError(f"{file} cannot be unpacked to {name} ({error.strerror})") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if damage is not None:
        problems.add(shown, *damage)
    return Path(name)


def _gunzip(packed: IO[bytes], target: IO[bytes], size: int) -> tuple[str, str] | None:
    """Unpack a gzip file of `size` bytes; (code, reason) when it is damaged or a bomb."""
    stream, total = zlib.decompressobj(31), 0
    while rest := packed.read(1 << 16):
        while rest:
            if stream.eof:  # several gzip streams in a row are one file; zeros may follow
                rest = rest.lstrip(b"\0")
                stream = zlib.decompressobj(31)
                continue
            before = stream.copy()
            try:
                part = stream.decompress(rest, 1 << 20)
            except zlib.error as error:
                target.write(_before_the_error(before, rest))
                return "checksum", f"the gzip stream is damaged ({error})"
            total += target.write(part)
            if total > 64 << 20 and total > _MAX_RATIO * size:
                return "ratio", f"{size:,} bytes unpack to more than {_MAX_RATIO} times as many"
            if total > _MAX_UNPACKED:
                raise UserError(f"{packed.name} is too large to be read packed; gunzip it first")
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
    if not stream.eof:
        target.write(stream.flush())
        return "truncated", "the gzip stream is cut off"
    return None


def _before_the_error(stream: zlib._Decompress, rest: bytes) -> bytes:
    """What a stream gives byte by byte until it fails."""
    found = bytearray()
    try:
        for byte in rest:
            found += stream.decompress(bytes([byte]))
    except zlib.error:
        pass
    return bytes(found)


def _remove(file: str, owner: int) -> None:
    # A forked worker that ends must not take the file from the others.
    if os.getpid() == owner:
        Path(file).unlink(missing_ok=True)
