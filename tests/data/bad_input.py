"""Bad pictures, made on the spot: what a data set in the wild can hold.

`bad_pictures` writes them into a folder, `PICTURES` says what has to come of each. Nothing here is
larger than it must be.
"""

from __future__ import annotations

import io
import os
import struct
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
