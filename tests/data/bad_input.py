"""Bad pictures, captions and archives, made on the spot: what a data set in the wild can hold.

`bad_pictures`, `bad_captions` and `bad_archives` write them into a folder; `PICTURES`, `CAPTIONS`
and `ARCHIVES` say what has to come of each. Nothing here is larger than it must be.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
CUTS = 10
LONG_NAME = "n" * 251 + ".png"  # 255 characters
NEWLINE_NAME = "new\nline.png"
QUOTES_NAME = 'it\'s "quoted" <b>&amp;.png'
BYTES_NAME = os.fsdecode(b"caf\xe9-\xff.png")  # no valid UTF-8


@dataclass(frozen=True)
class Expected:
    """What comes of a picture. code: of the BadPicture or the problem, None when it is usable.

    listed: the listing offers it, so that it is `read` and `decode` that say what is wrong.
    note: the code of the note about what was mended, if any.
    """

    code: str | None = None
    listed: bool = True
    note: str | None = None


PICTURES: dict[str, Expected] = {
    "zero-bytes.png": Expected("empty"),
    **{f"cut-{f}-{k}": Expected("truncated") for f in FORMATS for k in range(CUTS)},
    "crc-pixels.png": Expected("checksum"),
    "crc-text.png": Expected(note="checksum"),
    "png-named.jpg": Expected(),
    "text-named.png": Expected("format"),
    "cmyk-plain.jpg": Expected(note="cmyk"),
    "cmyk-adobe.jpg": Expected(note="cmyk"),
    "16-bit-grey.png": Expected(note="depth"),
    "16-bit-rgb.png": Expected(note="depth"),
    "palette-alpha.png": Expected(note="transparent"),
    "grey-alpha.png": Expected(note="transparent"),
    "one-bit.png": Expected(),
    "transparent.png": Expected(note="blank"),
    "animated.gif": Expected("format", listed=False),
    "animated.webp": Expected(note="animated"),
    "animated.png": Expected(note="animated"),
    **{f"orientation-{o}.jpg": Expected() for o in range(1, 9)},
    "broken-exif.jpg": Expected(note="warning"),
    "broken-exif.png": Expected(note="exif"),
    "broken-profile.jpg": Expected(note="profile"),
    "broken-profile.png": Expected(note="profile"),
    "linear-profile.png": Expected(note="profile"),
    "1x1.png": Expected(),
    "1x20000.png": Expected(),
    "20000x1.png": Expected(),
    "bomb.png": Expected("too-large"),
    "bomb.jpg": Expected("too-large"),
    "bomb.bmp": Expected("too-large"),
    "bomb.webp": Expected("too-large"),
    "extent-bomb.gif": Expected("format", listed=False),
    "text-50-mb.png": Expected(note="text"),
    "packed-text-50-mb.png": Expected(),
    "progressive-cut.jpg": Expected("truncated"),
    "trailing-data.jpg": Expected(),
    "pdf.png": Expected("format"),
    "eps.png": Expected("format"),
    "fits.png": Expected("format"),
    "svg.png": Expected("format"),
    "html.png": Expected("format"),
    "fifo.png": Expected("not-a-file", listed=False),
    "folder.jpg": Expected("not-a-file", listed=False),
    "dangling.png": Expected("missing", listed=False),
    "loop.png": Expected("link", listed=False),
    "link-out.png": Expected("path-out", listed=False),
    "link-in.png": Expected(),
    "unreadable.png": Expected("permission"),
    NEWLINE_NAME: Expected(),
    QUOTES_NAME: Expected(),
    BYTES_NAME: Expected(),
    LONG_NAME: Expected(),
    "twin-1.png": Expected(),
    "twin-2.png": Expected(),
    "near-original.jpg": Expected(),
    "near-encoded-again.jpg": Expected(),
    "near-cropped.jpg": Expected(),
}


def scene(width: int = 48, height: int = 32, shade: int = 0) -> Image.Image:
    """A small picture with four different quarters, so that every turn and mirror shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    pixels[:top, :left] = (220, 30 + shade, 30)
    pixels[:top, left:] = (30, 200, 40 + shade)
    pixels[top:, :left] = (40, 50 + shade, 210)
    pixels[top:, left:] = (230, 220, 60)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes, *, good: bool = True) -> bytes:
    checksum = zlib.crc32(kind + data) ^ (0 if good else 1)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(
    width: int,
    height: int,
    rows: bytes,
    *,
    depth: int = 8,
    color: int = 2,
    before: bytes = b"",
    good: bool = True,
) -> bytes:
    """A PNG by hand. rows: the unfiltered rows, each behind a zero; before: chunks before IDAT."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + before
        + png_chunk(b"IDAT", zlib.compress(rows), good=good)
        + png_chunk(b"IEND", b"")
    )


def _rows(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def linear_profile() -> bytes:
    """An ICC profile (version 2) with sRGB's primaries and a straight line for its curve."""
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 7) + b"linear\0" + bytes(12 + 67),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": _xyz(0.4360, 0.2225, 0.0139),
        b"gXYZ": _xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": _xyz(0.1431, 0.0606, 0.7139),
        b"rTRC": b"curv\0\0\0\0" + struct.pack(">I", 0),
        b"gTRC": b"curv\0\0\0\0" + struct.pack(">I", 0),
        b"bTRC": b"curv\0\0\0\0" + struct.pack(">I", 0),
    }
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table += name + struct.pack(">II", start + len(data), len(body))
        data += body
    size = start + len(data)
    header = struct.pack(">I", size) + bytes(4) + b"\x02\x10\0\0mntrRGB XYZ " + bytes(12)
    header += b"acsp" + bytes(28) + _xyz(0.9642, 1.0, 0.8249)[8:] + bytes(48)
    return header[:128].ljust(128, b"\0") + table + data


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def gif_extent_bomb() -> bytes:
    """A GIF of 1×1 whose frame claims 65535×65535."""
    data = bytearray(encoded(Image.new("P", (1, 1)), "GIF"))
    at = data.index(b"\x2c")
    data[at + 5 : at + 9] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def plain_cmyk() -> bytes:
    """The CMYK picture as a writer without Adobe's marker leaves it: no ink is 0."""
    inverted = Image.eval(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), lambda v: 255 - v)
    data = encoded(inverted, "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def _bombs() -> dict[str, bytes]:
    side = 60_000
    jpeg = bytearray(encoded(scene(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
    bmp = bytearray(encoded(scene(), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, side)
    webp = bytearray(encoded(Image.new("RGBA", (4, 4), (1, 2, 3, 4)), "WEBP"))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = (16_000).to_bytes(3, "little") * 2
    return {
        "bomb.png": png(side, side, b"\0" * 100),
        "bomb.jpg": bytes(jpeg),
        "bomb.bmp": bytes(bmp),
        "bomb.webp": bytes(webp),
    }


def _picture_bytes() -> dict[str, bytes]:
    picture = scene()
    files: dict[str, bytes] = {"zero-bytes.png": b""}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    for form in FORMATS:
        whole = encoded(noise, form)
        for k in range(CUTS):
            files[f"cut-{form}-{k}"] = whole[: max(8, len(whole) * (2 * k + 1) // (2 * CUTS))]
    rows = _rows(np.asarray(picture))
    good_text = png_chunk(b"tEXt", b"Comment\0hello", good=False)
    files |= {
        "crc-pixels.png": png(48, 32, rows, good=False),
        "crc-text.png": png(48, 32, rows, before=good_text),
        "png-named.jpg": encoded(picture, "PNG"),
        "text-named.png": b"a red barn behind a field of wheat, early morning\n" * 20,
        "cmyk-plain.jpg": plain_cmyk(),
        "cmyk-adobe.jpg": encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95),
        "16-bit-grey.png": png(
            4, 1, _rows(np.array([[0, 0x4080, 0x8000, 0xFFFF]], ">u2")), depth=16, color=0
        ),
        "16-bit-rgb.png": png(
            1, 1, _rows(np.array([[[0, 0x8080, 0xFFFF]]], ">u2")), depth=16, color=2
        ),
        "palette-alpha.png": encoded(
            Image.new("RGBA", (8, 8), (200, 0, 0, 128)).quantize(4), "PNG"
        ),
        "grey-alpha.png": encoded(Image.new("LA", (8, 8), (100, 128)), "PNG"),
        "one-bit.png": encoded(picture.convert("1"), "PNG"),
        "transparent.png": encoded(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "PNG"),
        "linear-profile.png": png(
            1,
            1,
            b"\0" + bytes([128, 128, 128]),
            before=png_chunk(b"iCCP", b"linear\0\0" + zlib.compress(linear_profile())),
        ),
        "1x1.png": encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"),
        "1x20000.png": encoded(Image.new("RGB", (1, 20000)), "PNG"),
        "20000x1.png": encoded(Image.new("RGB", (20000, 1)), "PNG"),
        "extent-bomb.gif": gif_extent_bomb(),
        "text-50-mb.png": png(48, 32, rows, before=png_chunk(b"tEXt", b"T\0" + b"x" * 50_000_000)),
        "packed-text-50-mb.png": png(
            48, 32, rows, before=png_chunk(b"zTXt", b"T\0\0" + zlib.compress(bytes(50_000_000)))
        ),
        "trailing-data.jpg": encoded(picture, "JPEG") + b"<?php echo 'hello' ?>" * 10,
        "pdf.png": b"%PDF-1.7\n1 0 obj\n",
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1000000 1000000\n",
        "fits.png": b"SIMPLE  =                    T".ljust(2880),
        "svg.png": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"></svg>',
        "html.png": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "twin-1.png": encoded(scene(shade=40), "PNG"),
        "twin-2.png": encoded(scene(shade=40), "PNG"),
    }
    frames = {"save_all": True, "append_images": [picture.transpose(Image.Transpose.ROTATE_180)]}
    for form, name in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png")):
        files[f"animated.{name}"] = encoded(picture, form, **frames)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"orientation-{orientation}.jpg"] = encoded(
            turned_away(picture, orientation), "JPEG", quality=95, exif=exif
        )
    broken = b"Exif\0\0MM\0*\0\0\0\x08\0\x05" + b"\xff" * 9
    files["broken-exif.jpg"] = encoded(picture, "JPEG", exif=broken)
    files["broken-exif.png"] = png(48, 32, rows, before=png_chunk(b"eXIf", b"no TIFF at all"))
    for name, form in (("broken-profile.jpg", "JPEG"), ("broken-profile.png", "PNG")):
        files[name] = encoded(picture, form, icc_profile=b"\0\0\1\0" + b"lies" * 60)
    progressive = encoded(noise.resize((96, 64)), "JPEG", progressive=True, quality=90)
    scan = progressive.index(b"\xff\xda", len(progressive) // 2)
    files["progressive-cut.jpg"] = progressive[: scan + 40]
    big = scene(160, 120).resize((320, 240), Image.Resampling.BICUBIC)
    files["near-original.jpg"] = encoded(big, "JPEG", quality=92)
    files["near-encoded-again.jpg"] = encoded(big, "JPEG", quality=70)
    files["near-cropped.jpg"] = encoded(big.crop((1, 1, 320, 240)), "JPEG", quality=92)
    for name in (NEWLINE_NAME, QUOTES_NAME, BYTES_NAME, LONG_NAME):
        files[name] = encoded(picture, "PNG")
    return files | _bombs()


def turned_away(upright: Image.Image, orientation: int) -> Image.Image:
    """The picture as a camera stores it, so that its EXIF orientation sets it upright again."""
    way = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    return upright.transpose(way) if way is not None else upright


def bad_pictures(folder: Path) -> dict[str, Path]:
    """Write every bad picture into `folder` (made if need be): name as in PICTURES -> path.

    Beside it stands `outside.png`, which a link in the folder leads to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    for name, data in _picture_bytes().items():
        # "cut-JPEG-3" -> "cut-JPEG-3.jpeg"
        paths[name] = folder / (
            f"{name}.{name.split('-')[1].lower()}" if name.startswith("cut-") else name
        )
        paths[name].write_bytes(data)
    outside = folder.parent / "outside.png"
    outside.write_bytes(encoded(scene(), "PNG"))
    os.mkfifo(folder / "fifo.png")
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop-2.png")
    (folder / "loop-2.png").symlink_to(folder / "loop.png")
    (folder / "link-out.png").symlink_to(outside)
    (folder / "link-in.png").symlink_to("twin-1.png")
    (folder / "unreadable.png").write_bytes(encoded(scene(), "PNG"))
    (folder / "unreadable.png").chmod(0)
    for name in PICTURES:
        paths.setdefault(name, folder / name)
    return paths


@dataclass(frozen=True)
class ExpectedCaption:
    """What comes of "odd.png". captions: None when it is left out; codes: of the problems.

    refused: a part of the message, when the whole data set is refused.
    """

    captions: tuple[str, ...] | None = None
    codes: frozenset[str] = frozenset()
    refused: str | None = None


def _left_out(*codes: str) -> ExpectedCaption:
    return ExpectedCaption(None, frozenset(codes))


def _mended(captions: tuple[str, ...], *codes: str) -> ExpectedCaption:
    return ExpectedCaption(captions, frozenset(codes))


RIGHT_TO_LEFT = "שלום 🐶🏽 مرحبا 👩‍👩‍👧"
OVER_THE_LIMIT = " ".join(f"word{i}" for i in range(120))

CAPTIONS: dict[str, ExpectedCaption] = {
    "missing": _left_out("caption-missing"),
    "empty": _left_out("caption-empty"),
    "white-space": _left_out("caption-empty"),
    "nul": _mended(("an odd picture",), "caption-control"),
    "not-utf-8": _left_out("caption-encoding"),
    "utf-16": _mended(("an odd picture ünder a tree",), "caption-encoding"),
    "1-mb": _left_out("caption-long"),
    "over-the-limit": _mended((OVER_THE_LIMIT,)),
    "emoji-right-to-left": _mended((RIGHT_TO_LEFT,)),
    "several-lines": _mended(("first", "second")),
    "number": _mended(("7",), "caption-number"),
    "null": _left_out("caption-missing"),
    "object": _left_out("caption-type"),
    "list-with-empty": _mended(("one", "two"), "caption-empty"),
    "half-a-character": _mended(("odd \ufffd",), "caption-encoding"),
    "duplicate": _mended(("first", "second"), "file-name-twice"),
    "no-such-file": _left_out("missing", "caption-missing"),
    "absolute": _left_out("path-out", "caption-missing"),
    "dot-dot": _left_out("path-out", "caption-missing"),
    "cut-line": _left_out("metadata-line", "caption-missing"),
    "not-utf-8-line": _left_out("caption-encoding"),
    "blank-lines": _mended(("an odd picture",)),
    "utf-16-table": _mended(("an odd picture ünder a tree",)),
    "csv-quotes": _mended(('one, "two" three',)),
    "csv-too-many-fields": _left_out("metadata-line", "caption-missing"),
    "csv-no-header": ExpectedCaption(refused="has no header"),
    "disagree": ExpectedCaption(refused="disagree"),
}

_SIDECARS: dict[str, bytes] = {
    "empty": b"",
    "white-space": b" \n\t\r\n \n",
    "nul": b"an odd\0picture\n",
    "not-utf-8": b"an odd picture \xff\xfe\xfa\n",
    "utf-16": "an odd picture ünder a tree".encode("utf-16"),
    "1-mb": b"word " * 210_000,
    "over-the-limit": OVER_THE_LIMIT.encode(),
    "emoji-right-to-left": RIGHT_TO_LEFT.encode(),
    "several-lines": b"first\n\nsecond\r\n",
}
_GOOD_LINE = b'{"file_name": "good.png", "text": "a good picture"}\n'
_LINES: dict[str, bytes] = {
    "number": b'{"file_name": "odd.png", "text": 7}',
    "null": b'{"file_name": "odd.png", "text": null}',
    "object": b'{"file_name": "odd.png", "text": {"en": "a picture"}}',
    "list-with-empty": b'{"file_name": "odd.png", "text": ["one", "", "two", "one"]}',
    "half-a-character": rb'{"file_name": "odd.png", "text": "odd \ud83d"}',
    "duplicate": b'{"file_name": "odd.png", "text": "first"}\n'
    b'{"file_name": "./odd.png", "text": "second"}',
    "no-such-file": b'{"file_name": "other.png", "text": "an odd picture"}',
    "absolute": b'{"file_name": "/etc/passwd", "text": "an odd picture"}',
    "dot-dot": b'{"file_name": "../outside.png", "text": "an odd picture"}',
    "cut-line": b'{"file_name": "odd.png", "te',
    "not-utf-8-line": b'{"file_name": "odd.png", "text": "odd \xff"}',
    "blank-lines": b'\n\n  \n{"file_name": "odd.png", "text": "an odd picture"}\n\n',
}
_CSV: dict[str, str] = {
    "csv-quotes": 'file_name,text\ngood.png,a good picture\nodd.png,"one, ""two""\n\nthree"\n',
    "csv-too-many-fields": "file_name,text\ngood.png,a good picture\nodd.png,one, two, three\n",
    "csv-no-header": "good.png,a good picture\nodd.png,an odd picture\n",
}


def bad_captions(folder: Path) -> dict[str, Path]:
    """Write a small data set for each name of CAPTIONS: "good.png", whose caption is always
    "a good picture", and "odd.png". Name -> the data set's folder."""
    paths = {}
    for name in CAPTIONS:
        place = paths[name] = folder / name
        place.mkdir(parents=True)
        for k, picture in enumerate(("good.png", "odd.png")):
            (place / picture).write_bytes(encoded(scene(shade=50 * k), "PNG"))
        if name in _LINES:
            (place / "metadata.jsonl").write_bytes(_GOOD_LINE + _LINES[name])
        elif name in _CSV:
            (place / "metadata.csv").write_bytes(_CSV[name].encode())
        elif name == "utf-16-table":
            lines = _GOOD_LINE.decode() + json.dumps(
                {"file_name": "odd.png", "text": "an odd picture ünder a tree"}, ensure_ascii=False
            )
            (place / "metadata.jsonl").write_bytes(lines.encode("utf-16"))
        elif name == "disagree":
            line = b'{"file_name": "odd.png", "text": "a dog"}\n'
            (place / "metadata.jsonl").write_bytes(_GOOD_LINE + line)
            (place / "odd.txt").write_text("a cat")
        else:
            (place / "good.txt").write_text("a good picture")
            if name in _SIDECARS:
                (place / "odd.txt").write_bytes(_SIDECARS[name])
    (folder / "outside.png").write_bytes(encoded(scene(), "PNG"))
    return paths


@dataclass(frozen=True)
class ExpectedArchive:
    """What comes of an archive. keys: of the samples left; codes: of the problems."""

    keys: tuple[str, ...] = ("good",)
    codes: frozenset[str] = frozenset()


def _archive(*codes: str, keys: tuple[str, ...] = ("good",)) -> ExpectedArchive:
    return ExpectedArchive(keys, frozenset(codes))


ARCHIVES: dict[str, ExpectedArchive] = {
    "absolute.tar": _archive("path-out"),
    "dot-dot.tar": _archive("path-out"),
    "link-out.tar": _archive("member-kind"),
    "hard-link-out.tar": _archive("member-kind"),
    "device.tar": _archive("member-kind"),
    "fifo.tar": _archive("member-kind"),
    "member-twice.tar": _archive("member-twice"),
    "many-empty.tar": _archive("too-many", "empty", "picture-missing"),
    "ratio-bomb.tar.gz": _archive("ratio", "truncated", "too-large", "picture-missing"),
    "cut.tar": _archive("truncated", "caption-missing"),
    "cut-gzip.tar.gz": _archive("truncated", keys=("good", "odd")),
    "gzip-checksum.tar.gz": _archive("checksum", keys=("good", "odd")),
    "wrong-checksum.tar": _archive("checksum"),
    "no-tar.tar": ExpectedArchive((), frozenset({"checksum"})),
    "tar-inside.tar": _archive("archive-inside"),
    "names-by-case.tar": _archive("names-by-case", keys=("good", "GOOD")),
    "long-names.tar": _archive(keys=("good", "d/" * 60 + "é" * 100)),
    "no-end.tar": _archive("truncated"),
}


def sample(key: str, caption: str = "a good picture") -> list[tuple[tarfile.TarInfo, bytes]]:
    """The two members of a good sample."""
    members = []
    for name, data in ((f"{key}.png", encoded(scene(), "PNG")), (f"{key}.txt", caption.encode())):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        members.append((info, data))
    return members


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """A member without content: a link, a device, a FIFO."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def tar_bytes(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _ratio_bomb() -> bytes:
    """A gigabyte of zeros behind a good sample, in a megabyte of gzip."""
    info = tarfile.TarInfo("odd.png")
    info.size = 1 << 30
    head = tar_bytes(sample("good"))
    head = head[: len(head) - len(head) % 512].rstrip(b"\0")
    head += bytes(-len(head) % 512) + info.tobuf(tarfile.USTAR_FORMAT)
    zeros = gzip.compress(bytes(1 << 24))
    return gzip.compress(head) + zeros * 64


def bad_archives(folder: Path, *, empty_members: int = 1_000_000) -> dict[str, Path]:
    """Write every archive of ARCHIVES, each with a good sample "good" first. The one of many empty
    members takes 512 bytes for each."""
    folder.mkdir(parents=True, exist_ok=True)
    good = sample("good")
    odd = sample("odd", "an odd picture")
    twice = sample("good", "another caption")
    inner = tarfile.TarInfo("inner.tar")
    whole = tar_bytes(good + odd)
    inner.size = len(whole)
    damaged = bytearray(whole)
    second = whole.index(b"odd.png")
    damaged[second + 148] ^= 1
    packed = gzip.compress(whole)
    spoiled = bytearray(packed)
    spoiled[-8] ^= 1
    renamed = [(info, data) for info, data in sample("../odd")]
    data = {
        "absolute.tar": tar_bytes(good + sample("/tmp/odd")),
        "dot-dot.tar": tar_bytes(good + renamed),
        "link-out.tar": tar_bytes([*good, special("odd.png", tarfile.SYMTYPE, "/etc/passwd")]),
        "hard-link-out.tar": tar_bytes([*good, special("odd.png", tarfile.LNKTYPE, "/etc/passwd")]),
        "device.tar": tar_bytes([*good, special("odd.png", tarfile.CHRTYPE)]),
        "fifo.tar": tar_bytes([*good, special("odd.png", tarfile.FIFOTYPE)]),
        "member-twice.tar": tar_bytes(good + twice),
        "ratio-bomb.tar.gz": _ratio_bomb(),
        "cut.tar": whole[: second + 512 + 20],
        "cut-gzip.tar.gz": packed[:-9],
        "gzip-checksum.tar.gz": bytes(spoiled),
        "wrong-checksum.tar": bytes(damaged),
        "no-tar.tar": b"this is no archive\n" * 100,
        "tar-inside.tar": tar_bytes([*good, (inner, whole)]),
        "names-by-case.tar": tar_bytes(good + sample("GOOD")),
        "long-names.tar": tar_bytes(good + sample("d/" * 60 + "é" * 100)),
        "no-end.tar": tar_bytes(good)[: _used(tar_bytes(good))],
    }
    paths = {}
    for name in ARCHIVES:
        paths[name] = folder / name
        if name in data:
            paths[name].write_bytes(data[name])
    empty = tarfile.TarInfo("e.png").tobuf(tarfile.USTAR_FORMAT)
    with paths["many-empty.tar"].open("wb") as file:
        file.write(tar_bytes(good)[: _used(tar_bytes(good))])
        for _ in range(empty_members // 1000):
            file.write(empty * 1000)
        file.write(bytes(1024))
    return paths


def _used(archive: bytes) -> int:
    """Where the last member's content ends, in whole blocks."""
    end = len(archive.rstrip(b"\0"))
    return end + -end % 512
