"""From the bytes of a picture file to 8-bit sRGB pixels, or the reason why not.

Bytes come from anywhere, so nothing is believed before it is checked: the format is told by
content, the size by the header and before any pixel is decoded, and whatever a decoder raises
becomes a BadPicture. What was mended on the way is said in `notes`, never done in silence.

A picture costs at most about 5 s and 512 MB: `max_pixels` follows from that, by format.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from latentdiff.data.decode import containers
from latentdiff.data.decode.regular import MAX_BYTES, FileView, open_regular
from latentdiff.data.records import BadPicture

DECODER_VERSION = 1
"""Count it up with every change to the pixels that `decode` gives for a picture: it is part of the
names under which encoded pictures are cached."""

# A picture stands in memory twice, at four bytes a pixel: as decoded, and as converted or turned.
# WebP's decoder holds two more canvases of its own. A baseline JPEG of up to four times the limit
# is decoded at half its size, which its transform gives exactly.
MAX_PIXELS = 40_000_000
MAX_PIXELS_WEBP = 24_000_000
_STRIP = 1_000_000  # pixels that are converted at a time
EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

_OPEN: dict[str, Callable[[Any], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
# EXIF orientation (tag 0x0112, 1 … 8) -> what sets the picture upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ANIMATED = "animated: the first frame is used"
_BROKEN_EXIF = "exif: the EXIF block is broken; the picture is taken as upright"
_HIGH = bytes(min(255, (v * 255 + 32767) // 65535) for v in range(65536))  # 16 bit -> 8, rounded


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An upright picture. image: mode RGB, 8 bit, sRGB; notes: what was mended, "code: words"."""

    image: Image.Image
    format: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the file says before it is decoded. width, height: of the upright picture."""

    width: int
    height: int
    format: str
    animated: bool = False


def decode(data: bytes, *, max_pixels: int | None = None, allow_gif_tiff: bool = False) -> Decoded:
    """The picture in `data`: upright, 8-bit sRGB, transparency laid on white, first frame.

    max_pixels: what the header may claim, by default 40 million (WebP 24, JPEG half-sized up to
    160). Raises BadPicture: "empty", "format", "truncated", "checksum", "damaged", "too-large",
    "mode".
    """
    kind = _format(data[:512], allow_gif_tiff)
    if len(data) > MAX_BYTES:
        raise BadPicture("too-large", f"{len(data):,} bytes; at most {MAX_BYTES:,} are read")
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            image = _decode(data, kind, max_pixels, notes)
        except BadPicture:
            raise
        except MemoryError as error:
            raise BadPicture("too-large", "the picture does not fit into memory") from error
        except Exception as error:  # decoders raise whatever they meet
            raise _damaged(kind, error) from error
    notes += [f"warning: {str(w.message).strip()[:120]}" for w in heard if _worth_saying(w)]
    return Decoded(image=image, format=kind, notes=tuple(dict.fromkeys(notes)))


def header(
    picture: bytes | str | Path, *, max_pixels: int | None = None, allow_gif_tiff: bool = False
) -> Header:
    """Size and format, without decoding a pixel. `picture`: its bytes, or a regular file.

    What stands here can still turn out damaged when it is decoded. Raises BadPicture.
    """
    if isinstance(picture, bytes):
        return _header(memoryview(picture), io.BytesIO(picture), max_pixels, allow_gif_tiff)
    with open_regular(Path(picture)) as file:
        return _header(FileView(file), file, max_pixels, allow_gif_tiff)


def _header(
    view: containers.View, file: IO[bytes], max_pixels: int | None, allow_gif_tiff: bool
) -> Header:
    kind = _format(bytes(view[0:512]), allow_gif_tiff)
    try:
        if kind in ("PNG", "WEBP"):
            walk = containers.png_chunks if kind == "PNG" else containers.webp_chunks
            chunks = walk(view, whole=False)
            size, animated = (chunks.width, chunks.height), chunks.animated
            turned = _exif_orientation(chunks.exif, [])
        else:
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = _OPEN[kind](file)
                size, animated = image.size, bool(getattr(image, "is_animated", False))
                turned = _orientation(image, [])
    except BadPicture:
        raise
    except Exception as error:
        raise _damaged(kind, error) from error
    _check_size(size, kind, max_pixels)
    if turned >= 5:
        size = size[::-1]
    return Header(width=size[0], height=size[1], format=kind, animated=animated)


def _format(head: bytes, allow_gif_tiff: bool) -> str:
    """What `decode` and `header` go on with, from the first bytes."""
    kind = containers.sniff(head)
    if kind in containers.READ or (allow_gif_tiff and kind in containers.ON_REQUEST):
        return str(kind)
    if kind in containers.ON_REQUEST:
        raise BadPicture("format", f"{kind} is read only on request; convert it to PNG")
    raise containers.not_a_picture(head)


def _damaged(kind: str, error: Exception) -> BadPicture:
    if isinstance(error, Image.DecompressionBombError):
        return BadPicture("too-large", f"the {kind} claims more pixels than can be decoded")
    words = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    if "truncated" in words.lower():
        return BadPicture("truncated", f"the {kind} is cut off: {words}")
    return BadPicture("damaged", f"the {kind} cannot be decoded: {words}")


def _worth_saying(heard: warnings.WarningMessage) -> bool:
    # Sizes are bounded here; the library's own bounds and its deprecations are no news.
    return not issubclass(heard.category, (Image.DecompressionBombWarning, DeprecationWarning))


def _check_size(size: tuple[int, int], kind: str, max_pixels: int | None) -> bool:
    """Refuse what is too large; True when a JPEG is to be decoded at half its size."""
    width, height = size
    if width < 1 or height < 1:
        raise BadPicture("damaged", f"the {kind} says that it is {width}×{height}")
    limit = max_pixels or (MAX_PIXELS_WEBP if kind == "WEBP" else MAX_PIXELS)
    pixels = width * height
    if pixels <= limit:
        return False
    if kind == "JPEG" and max_pixels is None and pixels <= 4 * limit:
        return True
    raise BadPicture(
        "too-large", f"{width}×{height} = {pixels:,} pixels; at most {limit:,} are decoded"
    )


def _decode(data: bytes, kind: str, max_pixels: int | None, notes: list[str]) -> Image.Image:
    chunks: containers.Chunks | None = None
    if kind in ("PNG", "WEBP"):
        walk = containers.png_chunks if kind == "PNG" else containers.webp_chunks
        chunks = walk(memoryview(data))
        _check_size((chunks.width, chunks.height), kind, max_pixels)
        notes += chunks.notes
    image = _OPEN[kind](io.BytesIO((chunks and chunks.pixels) or data))
    half = _check_size(image.size, kind, max_pixels)
    for tile in image.tile:  # GIF and TIFF: a frame may claim more than its screen
        left, top, right, bottom = tile.extents or (0, 0, *image.size)
        _check_size((max(1, right - left), max(1, bottom - top)), kind, max_pixels)
    if half:
        _halve(image, notes)
    if chunks is None and getattr(image, "is_animated", False):
        notes.append(_ANIMATED)
    if chunks is not None:
        turned = _exif_orientation(chunks.exif, notes)
        profile = chunks.profile
    else:
        turned = _orientation(image, notes)
        profile = image.info.get("icc_profile")
    image.load()
    upright = _to_srgb(image, profile, chunks.depth if chunks else 8, notes)
    del image, chunks  # before the turned copy is made
    if turned in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[turned])
    upright.info = {}
    return upright


def _halve(image: ImageFile.ImageFile, notes: list[str]) -> None:
    """Decode a baseline JPEG at half its size; a progressive one needs all of it in memory."""
    width, height = image.size
    if image.info.get("progressive"):
        raise BadPicture(
            "too-large", f"{width}×{height}, progressive; at most {MAX_PIXELS:,} pixels are decoded"
        )
    image.draft(image.mode, (width // 2, height // 2))
    notes.append(f"halved: {width}×{height} was decoded at half its size")


def _orientation(image: ImageFile.ImageFile, notes: list[str]) -> int:
    """EXIF orientation 1 … 8 of an opened picture; 1 when there is none or it cannot be read."""
    try:
        return _known(image.getexif().get(_ORIENTATION, 1), notes)
    except Exception:  # broken EXIF raises whatever it leads to
        notes.append(_BROKEN_EXIF)
        return 1


def _exif_orientation(block: bytes | None, notes: list[str]) -> int:
    """The same of a raw EXIF block."""
    if not block:
        return 1
    try:
        exif = Image.Exif()
        exif.load(block if block.startswith(b"Exif\0\0") else b"Exif\0\0" + block)
        return _known(exif.get(_ORIENTATION, 1), notes)
    except Exception:
        notes.append(_BROKEN_EXIF)
        return 1


def _known(orientation: Any, notes: list[str]) -> int:
    if isinstance(orientation, int) and 1 <= orientation <= 8:
        return orientation
    notes.append(f"exif: orientation {str(orientation)[:20]!r} is unknown and was ignored")
    return 1


def _to_srgb(
    image: Image.Image, profile: bytes | None, depth: int, notes: list[str]
) -> Image.Image:
    """Any mode -> RGB, 8 bit, sRGB; transparency over white. By strips, to spare memory."""
    if depth == 16:
        notes.append("depth: 16 bit scaled to 8")
        if isinstance(image.info.get("transparency"), tuple):  # of 16-bit colours, read as 8
            image.info["transparency"] = tuple(v >> 8 for v in image.info["transparency"])
    if image.mode == "RGB" and not profile and "transparency" not in image.info:
        return image
    if image.mode == "CMYK" and not profile:
        notes.append("cmyk: converted without a profile")
    width, height = image.size
    whole = Image.new("RGB", image.size)
    # Adobe's CMYK stands inverted, and the reader inverts every CMYK; a plain one has no Adobe
    # marker and means what it says (libjpeg's "libjpeg.txt", on CMYK).
    invert = image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info
    faintest, strongest = 255, 0
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        strip = ImageChops.invert(strip) if invert else _to_8_bit(strip)
        strip, alpha = _split_alpha(strip)
        if profile:
            strip = _from_profile(strip, profile, notes)
        if strip.mode not in ("RGB", "L", "CMYK", "YCbCr", "HSV"):
            raise BadPicture("mode", f"pixels of kind {strip.mode!r} are not read; convert to PNG")
        strip = strip.convert("RGB")
        if alpha is not None:
            extrema: Any = alpha.getextrema()
            faintest, strongest = min(faintest, extrema[0]), max(strongest, extrema[1])
            white = Image.new("RGB", strip.size, (255, 255, 255))
            white.paste(strip, mask=alpha)
            strip = white
        else:
            strongest = 255
        whole.paste(strip, (0, top))
    if strongest == 0:
        notes.append("blank: fully transparent, white is left")
    elif faintest < 255:
        notes.append("transparent: laid on white")
    return whole


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """(colours, transparency) of a picture that may have the latter; palettes are resolved."""
    alpha = None
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), alpha
    if image.mode in ("P", "RGBA", "RGBX"):
        return image.convert("RGB"), alpha
    return image, alpha


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8, which the library would clip; other modes as they are."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise BadPicture("mode", "32-bit samples are not read; convert it to 8 or 16 bit")
    scaled = Image.fromarray(np.frombuffer(_HIGH, np.uint8)[values])
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        scaled = Image.merge("LA", (scaled, Image.fromarray(alpha)))
    return scaled


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None when the profile is sRGB, so that its pixels stay exact."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    name = (source.profile.profile_description or "").lower()
    if mode == "RGB" and name.startswith("srgb"):
        return None
    return ImageCms.buildTransform(
        source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
    )


def _from_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    if len(profile) > containers.MAX_PROFILE or image.mode not in ("RGB", "L", "CMYK"):
        notes.append("profile: the ICC profile does not fit the picture and was ignored")
        return image
    try:
        transform = _transform(profile, image.mode)
        if transform is None:
            return image
        converted = transform.apply(image)
    except Exception:  # lcms and the reader of profiles raise several kinds
        notes.append("profile: the ICC profile is broken and was ignored")
        return image
    notes.append("profile: converted to sRGB")
    return converted
