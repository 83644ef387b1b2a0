"""Buckets have one area, a picture loses as little as it can, and nothing is scaled up unasked."""

import numpy as np
import pytest

from latentdiff.data import transforms
from latentdiff.data.buckets import Bucket, assign, make_buckets
from latentdiff.errors import UserError


def some_sizes(n: int = 2000, low: int = 8, high: int = 900) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (n, 2))


def kept(size: tuple[int, int], bucket: Bucket) -> float:
    """Share of a picture's area that is seen, computed the long way: scale, then crop."""
    scale = max(bucket.width / size[0], bucket.height / size[1])
    return bucket.width * bucket.height / (scale * size[0] * scale * size[1])


def test_the_buckets_of_stable_diffusion_and_of_a_small_model_are_these() -> None:
    names = [str(b) for b in make_buckets(512, multiple=64)]
    assert names == ["384x640", "448x576", "512x512", "576x448", "640x384"]
    names = [str(b) for b in make_buckets(128, multiple=16)]
    assert names == ["96x160", "112x144", "128x128", "144x112", "160x96"]


@pytest.mark.parametrize(
    ("resolution", "multiple", "ratio"),
    [(32, 8, 2.0), (128, 16, 2.0), (512, 8, 3.0), (512, 64, 1.5), (1024, 64, 4.0)],
)
def test_buckets_are_multiples_of_about_one_area_and_come_in_mirrored_pairs(
    resolution: int, multiple: int, ratio: float
) -> None:
    buckets = make_buckets(resolution, multiple=multiple, max_ratio=ratio)
    assert len(set(buckets)) == len(buckets)
    assert {(h, w) for w, h in buckets} == set(buckets)
    assert (resolution, resolution) in buckets
    for width, height in buckets:
        assert width % multiple == height % multiple == 0
        # One more step of the longer side would be too much.
        assert (
            width * height <= resolution**2 < (max(width, height) + multiple) * min(width, height)
        )
        assert max(width, height) <= ratio * min(width, height)
    widths = {b.width for b in buckets if b.width <= resolution}
    assert widths == set(range(min(widths), resolution + 1, multiple))


def test_a_ratio_of_one_leaves_the_square_alone() -> None:
    assert make_buckets(128, multiple=16, max_ratio=1.0) == (Bucket(128, 128),)


@pytest.mark.parametrize(
    ("resolution", "ratio", "message"),
    [
        (100, 2.0, "100 px; the model needs a multiple of 16, such as 96 or 112"),
        (8, 2.0, "such as 16 or 32"),
        (0, 2.0, "multiple of 16"),
        (128, 0.5, "0.5; at least 1"),
        (128, float("nan"), "at least 1"),
    ],
)
def test_impossible_sizes_are_refused_in_a_line(
    resolution: int, ratio: float, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_buckets(resolution, multiple=16, max_ratio=ratio)


def test_a_large_picture_goes_where_the_least_is_cropped() -> None:
    sizes, buckets = some_sizes(low=200), make_buckets(128, multiple=16)
    plan = assign(sizes, buckets, multiple=16)
    for row, size in enumerate(sizes.tolist()):
        best = max(kept(size, b) for b in buckets)
        assert kept(size, plan.bucket(row)) == pytest.approx(best)
        assert plan.crop_loss[row] == pytest.approx(1 - best, abs=1e-6)


def test_the_crop_loss_is_what_the_transform_cuts_away() -> None:
    sizes = some_sizes(300, low=16)
    plan = assign(sizes, make_buckets(128, multiple=16), multiple=16)
    for row, size in enumerate(sizes.tolist()):
        left, top, right, bottom = transforms.source_box(tuple(size), plan.bucket(row))
        seen = (right - left) * (bottom - top) / (size[0] * size[1])
        assert plan.crop_loss[row] == pytest.approx(1 - seen, abs=1e-6)


@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_nothing_is_scaled_up_and_nothing_is_dropped(ratio: float) -> None:
    sizes = some_sizes()
    plan = assign(sizes, make_buckets(128, multiple=16, max_ratio=ratio), multiple=16)
    assert not plan.upscaled.any()
    assert set(plan.too_small) == set(np.flatnonzero((sizes < 16).any(axis=1)))
    assert plan.counts.sum() + len(plan.too_small) == len(sizes)
    assert (plan.counts > 0).all()
    for row in np.flatnonzero(plan.bucket_of >= 0).tolist():
        width, height = plan.bucket(row)
        assert width % 16 == height % 16 == 0
        assert width <= sizes[row, 0]
        assert height <= sizes[row, 1]
        if ratio == 1.0:
            assert width == height


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 90), (96, 80)),  # both sides rounded down
        ((127, 127), (112, 112)),
        ((70, 20), (32, 16)),  # not 64x16, which would cut the picture to twice its ratio's worth
        ((1000, 50), (80, 48)),  # no longer than the longest bucket
        ((50, 1000), (48, 80)),
        ((16, 16), (16, 16)),
        ((1000, 15), None),
    ],
)
def test_a_small_picture_gets_a_bucket_of_its_own(
    size: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    plan = assign([size], make_buckets(128, multiple=16), multiple=16)
    if expected is None:
        assert plan.bucket_of.tolist() == [-1]
        assert plan.buckets == ()
        assert plan.too_small.tolist() == [0]
    else:
        assert plan.bucket(0) == expected


def test_a_bucket_of_its_own_keeps_no_less_than_rounding_down_does() -> None:
    sizes = some_sizes(3000, low=64, high=600)
    buckets = make_buckets(512, multiple=64)
    plan = assign(sizes, buckets, multiple=64)
    small = [row for row in range(len(sizes)) if plan.bucket(row) not in buckets]
    assert len(small) > 1000
    better = 0
    for row in small:
        width, height = sizes[row]
        if max(width / height, height / width) > 1.5:
            continue
        down = Bucket(min(width, 512) // 64 * 64, min(height, 512) // 64 * 64)
        own = kept((width, height), plan.bucket(row))
        assert own >= kept((width, height), down) - 1e-9
        better += own > kept((width, height), down) + 1e-9
    assert better > 50


def test_scaling_up_is_done_when_asked_for_and_counted() -> None:
    sizes, buckets = some_sizes(), make_buckets(128, multiple=16)
    plan = assign(sizes, buckets, multiple=16, upscale=True)
    assert len(plan.too_small) == 0
    assert set(plan.buckets) <= set(buckets)
    for row, (width, height) in enumerate(sizes):
        bucket = plan.bucket(row)
        assert plan.upscaled[row] == (width < bucket.width or height < bucket.height)


@pytest.mark.parametrize("upscale", [False, True])
def test_a_picture_of_no_size_gets_no_bucket_and_is_not_called_small(upscale: bool) -> None:
    sizes = [(0, 0), (1, 1), (200, 200)]
    plan = assign(sizes, make_buckets(128, multiple=16), multiple=16, upscale=upscale)
    assert plan.bucket_of.tolist() == ([-1, 0, 0] if upscale else [-1, -1, 0])
    assert plan.too_small.tolist() == ([] if upscale else [1])
    assert ("left out" in plan.table()) != upscale


def test_pictures_trained_at_a_smaller_size_are_counted() -> None:
    sizes = [(128, 128), (200, 128), (32, 32), (100, 300)]
    buckets = make_buckets(128, multiple=16)
    table = assign(sizes, buckets, multiple=16).table()
    assert "1 picture is smaller than the model's buckets and trained at its own size" in table
    assert "smaller" not in assign(sizes, buckets, multiple=16, upscale=True).table()


def test_the_order_of_pictures_does_not_change_their_buckets() -> None:
    sizes = some_sizes()
    there = assign(sizes, make_buckets(128, multiple=16), multiple=16)
    back = assign(sizes[::-1], make_buckets(128, multiple=16)[::-1], multiple=16)
    assert there.buckets == back.buckets
    assert np.array_equal(there.bucket_of, back.bucket_of[::-1])


def test_common_buckets_come_first_and_smaller_ones_by_size() -> None:
    sizes = [(40, 40), (300, 200), (90, 90), (200, 200), (200, 300)]
    plan = assign(sizes, make_buckets(128, multiple=16), multiple=16)
    assert [str(b) for b in plan.buckets] == ["96x160", "128x128", "160x96", "80x80", "32x32"]
    assert plan.bucket_of.tolist() == [4, 2, 3, 1, 0]
    assert plan.bucket_of.dtype == np.int32


def test_the_table_says_it_all() -> None:
    sizes = [(256, 256)] * 6 + [(300, 200)] * 2 + [(1000, 100)] + [(8, 8)]
    plan = assign(sizes, make_buckets(128, multiple=16), multiple=16)
    assert plan.table(batch_size=4).splitlines() == [
        "bucket   pictures  crop loss  upscaled  batches",
        "128x128         6       0.0%         0      1.5",
        "160x96          3      34.4%         0      0.8",
        "all             9      11.5%         0      2.2",
        "1 picture loses more than a quarter to the crop, the worst 83%; no bucket is longer than "
        "1.67 : 1",
        "Buckets with fewer pictures than a batch (4): 1 of 2; their batches show a picture more "
        "than once, and come as much more rarely",
        "1 picture is left out: a side is shorter than 16 px",
    ]
    assert "batches" not in plan.table()


def test_a_long_table_ends_in_one_line_for_the_rest() -> None:
    plan = assign(some_sizes(), make_buckets(512, multiple=16), multiple=16)
    lines = plan.table(most=5).splitlines()
    assert lines[6].split()[:2] == [str(len(plan.buckets) - 5), "others"]
    counts = [int(line.split()[-3].replace(",", "")) for line in lines[1:8]]
    assert sum(counts[:-1]) == counts[-1] == plan.counts.sum()
    assert min(counts[:5]) >= np.sort(plan.counts)[::-1][5]


def test_a_table_of_no_pictures_is_still_a_table() -> None:
    plan = assign([], make_buckets(128, multiple=16), multiple=16)
    assert plan.table(4).splitlines()[-1].split() == ["all", "0", "-", "0", "0.0"]
