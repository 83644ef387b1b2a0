"""Pictures come out upright, in 8-bit sRGB, with the values that their files mean."""

import io
import pickle

import numpy as np
import pytest
from bad_input import (
    encoded,
    gif_extent_bomb,
    linear_profile,
    plain_cmyk,
    png,
    png_chunk,
    scene,
    srgb_profile,
    turned_away,
)
from PIL import Image

from latentdiff.data.decode import decoding as module
from latentdiff.data.decode.containers import sniff
from latentdiff.data.decode.decoding import decode, header
from latentdiff.data.records import BadPicture


def pixels(data: bytes, **options: object) -> np.ndarray:
    return np.asarray(decode(data, **options).image)


def code_of(data: bytes, **options: object) -> str:
    with pytest.raises(BadPicture) as refused:
        decode(data, **options)
    return refused.value.code


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_a_lossless_picture_comes_out_as_it_went_in(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    decoded = decode(encoded(scene(), form, **options))
    np.testing.assert_array_equal(np.asarray(decoded.image), np.asarray(scene()))
    assert (decoded.format, decoded.notes) == (form, ())


def test_the_format_is_told_by_content() -> None:
    assert decode(encoded(scene(), "PNG")).format == "PNG"
    assert sniff(b"BMW makes cars, not bitmaps") is None
    assert sniff(encoded(scene(), "BMP")) == "BMP"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_comes_out_upright(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(turned_away(scene(), orientation), form, exif=exif, quality=95)
    found = pixels(data).astype(int)
    assert found.shape == (32, 48, 3)
    middles = [(8, 12), (8, 36), (24, 12), (24, 36)]  # of the four quarters, away from the seams
    for y, x in middles:
        np.testing.assert_allclose(found[y, x], np.asarray(scene())[y, x], atol=12)
    assert (header(data).width, header(data).height) == (48, 32)


def test_an_unknown_orientation_is_ignored_and_said() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    decoded = decode(encoded(scene(), "PNG", exif=exif))
    assert decoded.image.size == (48, 32)
    assert decoded.notes == ("exif: orientation '9' is unknown and was ignored",)


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (2, 1), (200, 100, 0, 128))
    half.putpixel((1, 0), (200, 100, 0, 255))
    # 200·a + 255·(1 − a) with a = 128/255
    np.testing.assert_array_equal(pixels(encoded(half, "PNG"))[0], [[227, 177, 127], [200, 100, 0]])
    opaque = decode(encoded(scene().convert("RGBA"), "PNG"))
    assert opaque.notes == ()


def test_a_transparent_colour_of_a_palette_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(
        pixels(encoded(image, "PNG", transparency=1))[0], [[10, 20, 30], [255, 255, 255]]
    )


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 0x4080, 0x8000, 0xFFFF]], ">u2")
    data = png(6, 1, b"\0" + values.tobytes(), depth=16, color=0)
    expected = np.round(values.astype(float) * 255 / 65535)[0]
    np.testing.assert_array_equal(pixels(data)[0, :, 0], expected)


def test_a_transparent_16_bit_grey_is_white() -> None:
    values = np.array([[0x1000, 0x1001]], ">u2")
    data = png(
        2,
        1,
        b"\0" + values.tobytes(),
        depth=16,
        color=0,
        before=png_chunk(b"tRNS", b"\x10\x00"),
    )
    assert pixels(data)[0, :, 0].tolist() == [255, 16]


def test_plain_and_adobes_inverted_cmyk_mean_the_same_cyan() -> None:
    adobe = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95)
    for data in (plain_cmyk(), adobe):
        np.testing.assert_allclose(pixels(data)[8, 8], [0, 255, 255], atol=3)


def test_strips_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    image = scene().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    whole = pixels(encoded(image, "PNG"))
    monkeypatch.setattr(module, "_STRIP", 100)
    np.testing.assert_array_equal(pixels(encoded(image, "PNG")), whole)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_profile_with_a_straight_curve_is_converted_to_srgb(form: str) -> None:
    grey = Image.new("RGB", (16, 16), (128, 128, 128))
    options = {"lossless": True} if form == "WEBP" else {}
    decoded = decode(encoded(grey, form, icc_profile=linear_profile(), **options))
    # sRGB's curve (IEC 61966-2-1): 1.055·x^(1/2.4) − 0.055 at x = 128/255
    expected = 255 * (1.055 * (128 / 255) ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(np.asarray(decoded.image)[8, 8], expected, atol=2)
    assert decoded.notes == ("profile: converted to sRGB",)


def test_an_srgb_profile_changes_nothing() -> None:
    decoded = decode(encoded(scene(), "PNG", icc_profile=srgb_profile()))
    np.testing.assert_array_equal(np.asarray(decoded.image), np.asarray(scene()))
    assert decoded.notes == ()


def test_the_first_frame_of_an_animation_is_used() -> None:
    frames = {"save_all": True, "append_images": [Image.new("RGB", (48, 32), (255, 0, 0))]}
    data = encoded(scene(), "PNG", **frames)
    assert header(data).animated
    np.testing.assert_array_equal(pixels(data), np.asarray(scene()))


def test_gif_and_tiff_are_read_on_request_only() -> None:
    for form in ("GIF", "TIFF"):
        data = encoded(scene(), form)
        assert code_of(data) == "format"
        with pytest.raises(BadPicture):
            header(data)
        np.testing.assert_allclose(pixels(data, allow_gif_tiff=True), np.asarray(scene()), atol=1)
        assert header(data, allow_gif_tiff=True).format == form


def test_a_gif_frame_larger_than_its_screen_is_refused_before_it_is_decoded() -> None:
    assert code_of(gif_extent_bomb(), allow_gif_tiff=True) == "too-large"


def test_a_bomb_is_refused_by_its_header_alone() -> None:
    data = png(60_000, 60_000, b"\0" * 10)
    for look in (decode, header):
        with pytest.raises(BadPicture, match="60000×60000") as refused:
            look(data)
        assert refused.value.code == "too-large"


def test_the_limit_can_be_set() -> None:
    data = encoded(scene(), "PNG")
    assert decode(data, max_pixels=48 * 32).image.size == (48, 32)
    assert code_of(data, max_pixels=48 * 32 - 1) == "too-large"


def test_a_jpeg_above_the_limit_is_decoded_at_half_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    decoded = decode(encoded(scene(), "JPEG", quality=95))
    assert decoded.image.size == (24, 16)
    assert decoded.notes == ("halved: 48×32 was decoded at half its size",)
    np.testing.assert_allclose(np.asarray(decoded.image)[4, 4], [220, 30, 30], atol=6)
    assert code_of(encoded(scene(), "JPEG", progressive=True)) == "too-large"
    assert code_of(encoded(scene(96, 96), "JPEG")) == "too-large"


def test_a_broken_chunk_of_text_costs_the_text_only() -> None:
    rows = b"\0" + bytes([1, 2, 3])
    data = png(1, 1, rows, before=png_chunk(b"zTXt", b"no text", good=False))
    decoded = decode(data)
    assert decoded.image.getpixel((0, 0)) == (1, 2, 3)
    assert decoded.notes == ("checksum: PNG chunk zTXt is damaged and was left out",)


def test_a_wrong_checksum_of_the_pixels_is_refused() -> None:
    assert code_of(png(1, 1, b"\0abc", good=False)) == "checksum"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (bytes(100), "never written"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        (b"a caption", "text"),
        (b"\x01\x02\x03\x04", "unknown content"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(data: bytes, words: str) -> None:
    with pytest.raises(BadPicture, match=words):
        decode(data)


def test_a_bad_picture_survives_the_way_back_from_a_worker() -> None:
    with pytest.raises(BadPicture) as refused:
        decode(b"%PDF")
    again = pickle.loads(pickle.dumps(refused.value))
    assert (again.code, str(again)) == (refused.value.code, str(refused.value))


def test_a_decoded_picture_survives_the_way_back_from_a_worker() -> None:
    image = decode(encoded(scene(), "PNG")).image
    again = pickle.loads(pickle.dumps(image))
    np.testing.assert_array_equal(np.asarray(again), np.asarray(image))


def test_random_bytes_behind_a_good_head_raise_bad_picture_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        whole = encoded(scene(), form)
        for _ in range(60):
            data = bytearray(whole)
            for at in rng.integers(4, len(whole), 8):
                data[at] = rng.integers(256)
            for look in (decode, header):
                try:
                    look(bytes(data), allow_gif_tiff=True)
                except BadPicture as refused:
                    assert refused.code.isascii() and str(refused)


def test_header_reads_a_file_only_where_it_must(tmp_path: object) -> None:
    data = png(1, 1, b"\0abc", before=png_chunk(b"tEXt", b"T\0" + b"x" * 3_000_000))

    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            got = super().read(size)
            Counting.count += len(got)
            return got

    class View:
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, part: slice) -> bytes:
            file = Counting(data)
            start, stop, _ = part.indices(len(data))
            file.seek(start)
            return file.read(stop - start)

    assert module._header(View(), io.BytesIO(data), None, False).width == 1
    assert Counting.count < 2000
