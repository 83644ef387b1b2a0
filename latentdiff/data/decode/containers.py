"""What a picture file says about itself, read without decoding a pixel.

The format is told by content, never by the file's name. PNG and WebP are chunk formats: their
chunks are walked here, so that a huge text, a broken profile or a false checksum is met by name
before a decoder meets it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from latentdiff.data.records import BadPicture

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE = 4 << 20  # bytes of an ICC profile, unpacked; real ones end at about 3 MB (CMYK)

# What a decoder of pixels needs. Everything else is text, time, animation or metadata.
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PNG_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}

READ = {"JPEG", "PNG", "WEBP", "BMP"}
ON_REQUEST = {"GIF", "TIFF"}


def sniff(head: bytes) -> str | None:
    """The format of a file from its first bytes (64 are plenty); None when it is unknown.

    JPEG, PNG, WEBP, BMP, GIF and TIFF can be decoded; the other names are for the message.
    """
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == PNG_SIGNATURE:
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[4:8] == b"ftyp":
        return "AVIF" if head[8:12] in (b"avif", b"avis") else "HEIC or MP4"
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return name
    # Two letters are weak evidence: a text may begin with them. A bitmap's own header follows.
    if head[:2] == b"BM" and len(head) >= 18 and head[14:18] in _BMP_HEADERS:
        return "BMP"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "SVG"
    if text.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if text.startswith(b"<?xml"):
        return "XML"
    return None


_BMP_HEADERS = {struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124)}
_OTHERS = (
    (b"%PDF", "PDF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"SIMPLE  =", "FITS"),
    (b"8BPS", "PSD"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"version https://git-lfs", "Git LFS pointer"),
)


def not_a_picture(head: bytes) -> BadPicture:
    """The reason why a file that `sniff` does not take as a picture is none."""
    if not head:
        return BadPicture("empty", "the file is empty (0 bytes)")
    name = sniff(head)
    if name == "Git LFS pointer":
        return BadPicture("format", "a Git LFS pointer, not the picture; run `git lfs pull`")
    if name == "HTML":
        return BadPicture(
            "format", "a web page, not the picture: the download went wrong; fetch it again"
        )
    if name is not None:
        return BadPicture("format", f"{name} is not read; convert it to JPEG, PNG or WebP")
    if not head.strip(b"\0"):
        return BadPicture("format", "nothing but zero bytes: the file was never written whole")
    kind = "text" if _is_text(head) else "unknown content"
    return BadPicture("format", f"{kind}, not a picture; JPEG, PNG, WebP and BMP are read")


def _is_text(head: bytes) -> bool:
    try:
        head[:48].decode("utf-8", "strict" if len(head) <= 48 else "ignore")
    except UnicodeDecodeError:
        return False
    return not any(byte < 9 for byte in head)


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """What the walk over a chunked file gives.

    pixels: a PNG rebuilt from the chunks that its pixels need (None for WebP, whose bytes are
    decoded as they are). exif, profile: the raw blocks, None when there are none.
    """

    width: int
    height: int
    depth: int = 8  # bits per sample
    animated: bool = False
    exif: bytes | None = None
    profile: bytes | None = None
    pixels: bytes | None = None
    notes: tuple[str, ...] = ()


class View(Protocol):
    """Bytes by slice: a memoryview, or a file that is read only where it is asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes | memoryview: ...


def png_chunks(view: View, *, whole: bool = True) -> Chunks:
    """Walk a PNG (PNG specification, third edition, section 5).

    whole=False reads no pixels and takes a file that ends early, as is enough for a header.
    Raises BadPicture: "truncated", "checksum" (in a chunk that the pixels need), "damaged".
    """
    kept: list[bytes | memoryview] = [PNG_SIGNATURE]
    notes: list[str] = []
    found: dict[bytes, bytes] = {}
    seen_image, ended, animated, text = False, False, False, 0
    for kind, start, end, good in _png_walk(view, check=whole):
        if kind == b"IHDR":
            found.setdefault(kind, bytes(view[start:end]))
        if not good:
            if kind in _PNG_CRITICAL:
                raise BadPicture("checksum", f"the checksum of PNG chunk {_word(kind)} is wrong")
            notes.append(f"checksum: PNG chunk {_word(kind)} is damaged and was left out")
            continue
        seen_image = seen_image or kind == b"IDAT"
        animated = animated or kind == b"acTL"
        if kind in (b"eXIf", b"iCCP"):
            found.setdefault(kind, bytes(view[start:end]))
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            text += end - start
        elif kind in _PNG_PIXELS and whole:
            kept.append(view[start - 8 : end + 4])
        if kind == b"IEND":
            ended = True
            break
    header = found.get(b"IHDR", b"")
    if len(header) != 13:
        raise BadPicture("truncated", "the PNG ends before its header does")
    if whole and not (seen_image and ended):
        raise BadPicture("truncated", f"the PNG is cut off after {len(view):,} bytes")
    if text > MAX_PROFILE:
        notes.append(f"text: {text:,} bytes of text inside the PNG were passed over")
    profile = None
    if b"iCCP" in found:
        profile = _png_profile(found[b"iCCP"])
        if profile is None:
            notes.append("profile: the ICC profile is broken and was ignored")
    if animated:
        notes.append("animated: the first frame is used")
    width, height, depth = struct.unpack(">IIB", header[:9])
    return Chunks(
        width=width,
        height=height,
        depth=depth,
        animated=animated,
        exif=found.get(b"eXIf"),
        profile=profile,
        pixels=b"".join(kept) if whole else None,
        notes=tuple(notes),
    )


def _png_walk(view: View, *, check: bool) -> Iterator[tuple[bytes, int, int, bool]]:
    """(kind, start, end, checksum holds) of each whole chunk, in file order."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(view):
        length = int.from_bytes(view[at : at + 4], "big")
        start, end = at + 8, at + 8 + length
        if end + 4 > len(view):
            return
        kind = bytes(view[at + 4 : start])
        checksum = int.from_bytes(view[end : end + 4], "big")
        skip = not check and kind != b"eXIf"  # which a header needs as much as pixels do
        yield kind, start, end, skip or zlib.crc32(view[at + 4 : end]) == checksum
        at = end + 4


def _word(kind: bytes) -> str:
    return ascii(kind.decode("latin-1"))[1:-1]


def _png_profile(block: bytes) -> bytes | None:
    """The ICC profile in an iCCP block: a name, a zero, method 0, then a zlib stream."""
    _, zero, rest = block.partition(b"\0")
    if not zero or rest[:1] != b"\0":
        return None
    try:
        unpacked = zlib.decompressobj().decompress(rest[1:], MAX_PROFILE + 1)
    except zlib.error:
        return None
    return unpacked if 128 <= len(unpacked) <= MAX_PROFILE else None


def webp_chunks(view: View, *, whole: bool = True) -> Chunks:
    """Walk a WebP (RFC 9649). Raises BadPicture "truncated"."""
    if whole and int.from_bytes(view[4:8], "little") + 8 > len(view):
        raise BadPicture("truncated", f"the WebP is cut off after {len(view):,} bytes")
    size: tuple[int, int] | None = None
    found: dict[bytes, bytes] = {}
    animated = False
    at = 12
    while at + 8 <= len(view):
        kind, length = bytes(view[at : at + 4]), int.from_bytes(view[at + 4 : at + 8], "little")
        wanted = min(length, MAX_PROFILE if kind in (b"EXIF", b"ICCP") else 16)
        block = bytes(view[at + 8 : at + 8 + wanted])
        size = size or _webp_size(kind, block)
        animated = animated or kind == b"ANIM"
        if kind in (b"EXIF", b"ICCP") and len(block) == length:
            found.setdefault(kind, block)
        at += 8 + length + length % 2
    if size is None:
        raise BadPicture("truncated", "the WebP ends before its header does")
    return Chunks(
        width=size[0],
        height=size[1],
        animated=animated,
        exif=found.get(b"EXIF"),
        profile=found.get(b"ICCP"),
        notes=("animated: the first frame is used",) if animated else (),
    )


def _webp_size(kind: bytes, block: bytes) -> tuple[int, int] | None:
    if kind == b"VP8X" and len(block) >= 10:
        width, height = (int.from_bytes(block[i : i + 3], "little") + 1 for i in (4, 7))
        return width, height
    if kind == b"VP8 " and len(block) >= 10 and block[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", block, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(block) >= 5 and block[0] == 0x2F:
        bits = int.from_bytes(block[1:5], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    return None
