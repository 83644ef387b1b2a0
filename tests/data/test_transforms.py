"""A picture fills its bucket: the right part, at the right scale, without aliasing."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from latentdiff.data import transforms
from latentdiff.data.records import BadPicture
from latentdiff.data.transforms import crop_and_flip, fit, source_box, transform_id
from latentdiff.errors import UserError


def noise(width: int, height: int) -> Image.Image:
    draw = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))


def ramp(width: int, height: int) -> Image.Image:
    """Red counts columns, green rows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


def test_a_picture_of_the_buckets_size_comes_through_untouched() -> None:
    image = noise(48, 32)
    pixels = fit(image, (48, 32))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize(
    ("u", "first"), [((0.5, 0.5), 50.0), ((0.0, 0.5), 0.0), ((1.0, 0.5), 100.0), ((0.25, 0.0), 25)]
)
def test_a_wide_picture_loses_its_sides_where_u_says(u: tuple[float, float], first: float) -> None:
    # 200x100 in 64x64: the part is 100x100, and target pixel k covers 100/64 source columns.
    pixels = fit(ramp(200, 100), (64, 64), u=u).astype(float)
    columns = first + (np.arange(64) + 0.5) * 100 / 64 - 0.5
    rows = (np.arange(64) + 0.5) * 100 / 64 - 0.5
    inside = slice(4, -4)  # at the picture's own edge a filter has only one side to look at
    assert np.abs(pixels[:, inside, 0] - columns[inside]).max() < 1.0
    assert np.abs(pixels[inside, :, 1] - rows[inside, None]).max() < 1.0


def test_a_tall_picture_loses_top_and_bottom() -> None:
    assert source_box((100, 200), (64, 64)) == (0, 50, 100, 150)
    assert source_box((100, 200), (64, 64), (0.5, 0.0)) == (0, 0, 100, 100)
    assert source_box((100, 200), (64, 32), (0.9, 1.0)) == (0, 150, 100, 200)


@pytest.mark.parametrize("size", [(200, 100), (97, 211), (64, 64), (640, 361)])
@pytest.mark.parametrize("u", [(0.5, 0.5), (0.0, 1.0), (0.3, 0.8)])
def test_it_is_what_pillow_calls_fit(size: tuple[int, int], u: tuple[float, float]) -> None:
    image = noise(*size)
    theirs = ImageOps.fit(image, (64, 48), Image.Resampling.LANCZOS, centering=u)
    difference = np.asarray(theirs).astype(int) - fit(image, (64, 48), u=u)
    assert np.abs(difference).max() <= 1


def test_what_is_finer_than_a_target_pixel_turns_grey() -> None:
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = fit(Image.fromarray(np.stack([board] * 3, axis=-1)), (64, 64)).astype(int)
    assert np.abs(pixels - 127.5).max() < 4


def test_a_constant_stays_constant_at_any_scale() -> None:
    for size in ((64, 64), (301, 77), (10, 10)):
        image = Image.new("RGB", size, (10, 200, 77))
        assert (fit(image, (32, 48), upscale=True) == (10, 200, 77)).all()


def test_a_flip_mirrors_what_is_seen() -> None:
    image = noise(90, 61)
    plain = fit(image, (32, 32), u=(0.2, 0.9))
    flipped = fit(image, (32, 32), u=(0.2, 0.9), flip=True)
    assert np.array_equal(flipped, plain[:, ::-1])
    assert flipped.flags.c_contiguous
    assert not np.array_equal(flipped, plain)


@pytest.mark.parametrize("size", [(31, 100), (100, 31), (1, 1)])
def test_a_picture_smaller_than_its_bucket_is_bad_unless_scaling_up_is_asked_for(
    size: tuple[int, int],
) -> None:
    with pytest.raises(BadPicture, match=f"{size[0]}x{size[1]} px and was to fill 32x32") as caught:
        fit(noise(*size), (32, 32))
    assert caught.value.code == "too-small"
    assert fit(noise(*size), (32, 32), upscale=True).shape == (32, 32, 3)


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_a_line_of_pixels_is_cropped_before_it_is_scaled_up(size: tuple[int, int]) -> None:
    # Scaled first it would have 32 · 20000 · 32 pixels a side product; only the part is resampled.
    assert fit(noise(*size), (32, 32), upscale=True).shape == (32, 32, 3)


def test_the_part_never_reaches_over_the_edge() -> None:
    draw = np.random.default_rng(0)
    for W, H, width, height in draw.integers(1, 5000, (5000, 4)).tolist():
        u = (float(draw.random()), 1.0)
        left, top, right, bottom = source_box((W, H), (width, height), u)
        assert 0 <= left < right <= W
        assert 0 <= top < bottom <= H
        # One side is the picture's own, and the part has the bucket's shape.
        assert right - left == pytest.approx(W) or bottom - top == pytest.approx(H)
        assert (right - left) * height == pytest.approx((bottom - top) * width)


def test_crops_and_flips_are_addressed_by_position() -> None:
    drawn = [crop_and_flip(3, p, crop="random", flip=True) for p in range(2000)]
    assert drawn == [crop_and_flip(3, p, crop="random", flip=True) for p in range(2000)]
    assert drawn[:9] != [crop_and_flip(4, p, crop="random", flip=True) for p in range(9)]
    u = np.array([u for u, _ in drawn])
    assert np.abs(np.quantile(u, [0.1, 0.5, 0.9], axis=0).T - [0.1, 0.5, 0.9]).max() < 0.05
    assert 0.45 < np.mean([flip for _, flip in drawn]) < 0.55
    flips = np.array([flip for _, flip in drawn], float)
    assert np.abs(np.corrcoef(np.column_stack([u, flips]).T) - np.eye(3)).max() < 0.08
    # One setting leaves the other's draws alone.
    assert [crop_and_flip(3, p, flip=True)[1] for p in range(99)] == [f for _, f in drawn[:99]]
    assert [crop_and_flip(3, p, crop="random")[0] for p in range(99)] == [u for u, _ in drawn[:99]]


def test_by_default_nothing_is_drawn() -> None:
    assert {crop_and_flip(3, p) for p in range(20)} == {((0.5, 0.5), False)}


def test_a_cache_names_the_transform_and_takes_no_random_crop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = transform_id()
    assert before == transform_id("center")
    monkeypatch.setattr(transforms, "VERSION", transforms.VERSION + 1)
    assert transform_id() != before
    with pytest.raises(UserError, match="random crops cannot be cached"):
        transform_id("random")
