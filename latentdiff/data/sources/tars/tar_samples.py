"""The samples of a plain tar shard: which members belong together, and what captions they hold.

A sample is what shares a name up to the first dot of the last part ("0001.jpg", "0001.txt"), as
WebDataset has it. Where that would put several pictures with captions of their own into one
sample ("my.photo.0001.jpg", "my.photo.0002.jpg"), the name goes up to the last dot.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import latentdiff.data.sources.text as text
from latentdiff.data.decode.regular import MAX_BYTES, unreadable
from latentdiff.data.sources.metadata import CAPTION_COLUMNS
from latentdiff.data.sources.packed import Problems, printable
from latentdiff.data.sources.tars.tar_members import Member, Reader, TarDamage, members

PICTURES = {b"jpg", b"jpeg", b"png", b"webp", b"bmp"}
ON_REQUEST = {b"gif", b"tif", b"tiff"}
# Which member holds the caption, best first.
CAPTIONS = (b"txt", b"text", b"caption", b"json", b"cls")


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
    found_here = Problems()
    _index(file, shown, parts, found_here)
    if parts.dotted.several:
        parts, found_here = Parts(options, parts.dotted.several), Problems()
        _index(file, shown, parts, found_here)
    problems.extend(found_here)
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


class DottedNames:
    """Of the keys that names with more than one dot share: whose pictures are samples of their own.

    While one shard is walked, it keeps every key of a picture and of a caption.
    """

    def __init__(self) -> None:
        self._pictures: dict[bytes, set[bytes]] = {}
        self._captions: dict[bytes, set[bytes]] = {}
        self._plain_pictures: set[bytes] = set()
        self._plain_captions: set[bytes] = set()

    def add(self, key: bytes, whole: bytes, is_picture: bool) -> None:
        """Take in a member: its name up to the first dot, and up to the last one."""
        if whole == key:
            (self._plain_pictures if is_picture else self._plain_captions).add(key)
        else:
            (self._pictures if is_picture else self._captions).setdefault(key, set()).add(whole)

    @property
    def several(self) -> frozenset[bytes]:
        """Keys with several pictures of different names, of which one with a second dot has a
        caption of its own name, or none of which has any caption."""
        return frozenset(
            key
            for key, pictures in self._pictures.items()
            if len(pictures) + (key in self._plain_pictures) > 1
            and (
                pictures & self._captions.get(key, set())
                or not (key in self._captions or key in self._plain_captions)
            )
        )


class Parts:
    """The samples of one shard while it is walked: where each one's picture and caption stand.

    several: keys of `DottedNames.several`, whose members are told apart by their last dot.
    """

    def __init__(self, options: TarOptions, several: Set[bytes] = frozenset()) -> None:
        image, caption = options.image_column, options.caption_column
        self._options = options
        self._image = image.encode().lstrip(b".").lower() if image else None
        wanted = (caption.encode().lstrip(b".").lower(),) if caption else ()
        self._captions = (*wanted, *(c for c in CAPTIONS if c not in wanted))
        self._pictures = PICTURES | ON_REQUEST if options.allow_gif_tiff else PICTURES
        self.dotted = DottedNames()
        self._several = several
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
        key = folder + slash + stem
        whole = member.name.rpartition(b".")[0]
        if key in self._several:
            key = whole
        elif not self._image:
            self.dotted.add(key, whole, is_picture)
        row, by_case = self._row(key)
        note = None
        if by_case:
            note = ("names-by-case", "another sample's name differs by case only", False)
        if is_picture:
            if self.picture_offsets[row] >= 0:
                return "member-twice", "a second picture of one sample; the first is used", True
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
