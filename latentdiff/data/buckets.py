"""Aspect-ratio buckets: the sizes that pictures are trained at, so that little is cropped away.

All buckets have about the same area, never more than the square one, so that a batch of any
bucket takes about the same time and no more memory. A picture goes to the bucket whose aspect
ratio is nearest on a log scale, which is the one that crops least: of a picture of ratio a, a
bucket of ratio r keeps min(a/r, r/a).

Nothing is scaled up unless that is asked for. A picture smaller than its bucket gets a smaller
bucket, its own size rounded down to the multiple that the networks need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentdiff.errors import UserError


class Bucket(NamedTuple):
    """A size in pixels, both sides multiples of what the networks need."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def make_buckets(resolution: int, *, multiple: int, max_ratio: float = 2.0) -> tuple[Bucket, ...]:
    """The buckets of about resolution² pixels, from the tallest to the widest.

    For every width that is a multiple and at most `resolution`, the greatest height with
    width · height ≤ resolution² and height ≤ max_ratio · width; and each of them lying down.
    max_ratio = 1 leaves the square alone.

    Raises UserError for a resolution that is not a multiple, or a ratio below 1.
    """
    if multiple < 1 or resolution < multiple or resolution % multiple:
        below = max(multiple, resolution // multiple * multiple) if multiple > 0 else resolution
        raise UserError(
            f"the resolution is {resolution} px; the model needs a multiple of {multiple}, "
            f"such as {below} or {below + multiple}"
        )
    if not max_ratio >= 1:
        raise UserError(f"the largest aspect ratio is {max_ratio}; at least 1 is expected")
    found: set[Bucket] = set()
    for width in range(resolution, 0, -multiple):
        height = resolution**2 // width // multiple * multiple
        if height > max_ratio * width:
            break
        found.update((Bucket(width, height), Bucket(height, width)))
    return tuple(sorted(found, key=lambda b: (b.width / b.height, b.width)))


@dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """The sizes that pictures are cut to: options of every command that cuts pictures."""

    resolution: int | None = None
    """Side in pixels of a square bucket; the others have about its area. By default the
    model's own."""
    buckets: bool = True
    """Sort pictures into buckets by aspect ratio; off: one square bucket."""
    max_aspect: float = 2.0
    """Longest aspect ratio of a bucket."""
    upscale: bool = False
    """Enlarge pictures smaller than their bucket; off: they go to smaller buckets."""

    def __post_init__(self) -> None:
        if self.max_aspect < 1:
            raise UserError(f"max_aspect is {self.max_aspect}, expected at least 1")
        if self.resolution is not None and self.resolution < 8:
            raise UserError(f"resolution is {self.resolution}, expected at least 8 pixels")

    def make(self, size: int, multiple: int) -> tuple[Bucket, ...]:
        """The buckets for a model made for pictures of `size` px, whose sides are multiples."""
        ratio = self.max_aspect if self.buckets else 1.0
        return make_buckets(self.resolution or size, multiple=multiple, max_ratio=ratio)

    def describe(self, size: int) -> str:
        """The sizes in a few words, such as "128 px, square"."""
        shape = f"aspect up to {self.max_aspect:g}" if self.buckets else "square"
        return f"{self.resolution or size} px, {shape}"


@dataclass(frozen=True, eq=False)
class BucketPlan:
    """Which bucket each picture goes to. n pictures, by row.

    buckets: those that hold a picture; the common ones from tall to wide, then the smaller ones
    that were made for small pictures, largest first.
    bucket_of: (n,) int32, index into `buckets`; -1 for a picture that has none.
    too_small: (k,) int64, rows that have none because they would have to be scaled up.
    crop_loss: (n,) float32, share of the picture's area that a crop takes away; 0 for -1.
    upscaled: (n,) bool, the picture is smaller than its bucket.
    multiple: what every side is a multiple of, in pixels.
    smaller: number of pictures that are smaller than the common bucket of their shape, and not
    scaled up to it.
    """

    buckets: tuple[Bucket, ...]
    bucket_of: NDArray[np.int32]
    too_small: NDArray[np.int64]
    crop_loss: NDArray[np.float32]
    upscaled: NDArray[np.bool_]
    multiple: int
    smaller: int = 0

    @property
    def counts(self) -> NDArray[np.int64]:
        """(buckets,) pictures in each bucket."""
        return np.bincount(self.bucket_of[self.bucket_of >= 0], minlength=len(self.buckets))

    def bucket(self, row: int) -> Bucket:
        """The bucket of a row that has one."""
        index = int(self.bucket_of[row])
        assert index >= 0, f"row {row} fits no bucket"
        return self.buckets[index]

    def table(self, batch_size: int | None = None, *, most: int = 24) -> str:
        """The plan as text: a line a bucket, then what to know before training on it.

        batch_size: samples of one batch; adds the mean number of batches in an epoch.
        most: buckets that get a line of their own, the fullest ones; the rest share one.
        """
        counts, used = self.counts, self.bucket_of >= 0
        losses = np.bincount(self.bucket_of[used], self.crop_loss[used], len(self.buckets))
        upscaled = np.bincount(self.bucket_of[used & self.upscaled], minlength=len(self.buckets))
        fullest = sorted(np.argsort(-counts, kind="stable")[:most].tolist())
        rest = np.setdiff1d(np.arange(len(self.buckets)), fullest)
        groups = [(str(self.buckets[k]), np.array([k])) for k in fullest]
        if len(rest):
            groups.append((f"{len(rest):,} others", rest))
        groups.append(("all", np.arange(len(self.buckets))))
        rows = [["bucket", "pictures", "crop loss", "upscaled"]]
        if batch_size:
            rows[0].append("batches")
        for name, members in groups:
            count = int(counts[members].sum())
            loss = f"{losses[members].sum() / count:.1%}" if count else "-"
            rows.append([name, f"{count:,}", loss, f"{upscaled[members].sum():,}"])
            if batch_size:
                rows[-1].append(f"{count / batch_size:,.1f}")
        return "\n".join([*_aligned(rows), *self._remarks(batch_size)])

    def _remarks(self, batch_size: int | None) -> list[str]:
        lines = []
        heavy = int((self.crop_loss > 0.25).sum())
        if heavy:
            widest = max(max(b.width / b.height, b.height / b.width) for b in self.buckets)
            lines.append(
                f"{_pictures(heavy, 'loses', 'lose')} more than a quarter to the crop, the worst "
                f"{self.crop_loss.max():.0%}; no bucket is longer than {widest:.2f} : 1"
            )
        scarce = int((self.counts < batch_size).sum()) if batch_size else 0
        if scarce and len(self.buckets) > 1:
            lines.append(
                f"Buckets with fewer pictures than a batch ({batch_size}): {scarce:,} of "
                f"{len(self.buckets):,}; their batches show a picture more than once, and come as "
                "much more rarely"
            )
        if self.smaller:
            own = "its own size" if self.smaller == 1 else "their own sizes"
            lines.append(
                f"{_pictures(self.smaller, 'is', 'are')} smaller than the model's buckets and "
                f"trained at {own}; --upscale enlarges"
            )
        if len(self.too_small):
            lines.append(
                f"{_pictures(len(self.too_small), 'is', 'are')} left out: a side is shorter than "
                f"{self.multiple} px"
            )
        return lines


def assign(
    sizes: ArrayLike, buckets: Sequence[Bucket], *, multiple: int, upscale: bool = False
) -> BucketPlan:
    """Give every picture its bucket.

    sizes: (n, 2) int, width and height in pixels as the picture is seen (orientation applied);
    (0, 0) for one that is to get no bucket: it could not be read, or is held out.
    buckets: what `make_buckets` gave. upscale: scale small pictures up to them.
    """
    size = np.asarray(sizes, np.int64).reshape(-1, 2)
    assert (size >= 0).all(), "a picture has a negative side"
    known = np.all(size > 0, axis=1)
    usable = known & (upscale | np.all(size >= multiple, axis=1))
    # A stand-in for the unusable, so that no logarithm of zero is taken.
    size = np.where(usable[:, None], size, multiple)
    common = np.array(sorted(buckets, key=lambda b: b.width / b.height), np.int64)
    ratios = common[:, 0] / common[:, 1]
    between = np.log(ratios[:-1] * ratios[1:]) / 2
    aspect = size[:, 0] / size[:, 1]
    shape = common[np.searchsorted(between, np.log(aspect))]
    small = np.any(size < shape, axis=1)
    if not upscale and small.any():
        limited = np.clip(aspect[small], ratios[0], ratios[-1])
        shape[small] = _own_shape(np.minimum(size[small], shape[small]), limited, multiple)
    kept = _kept(aspect, shape)
    names, bucket_of = _number(shape, usable, common)
    return BucketPlan(
        buckets=names,
        bucket_of=bucket_of,
        too_small=np.flatnonzero(~usable & known),
        crop_loss=np.where(usable, 1 - kept, 0).astype(np.float32),
        upscaled=usable & small & upscale,
        multiple=multiple,
        smaller=0 if upscale else int((usable & small).sum()),
    )


def _own_shape(
    room: NDArray[np.int64], aspect: NDArray[np.float64], multiple: int
) -> NDArray[np.int64]:
    """(k, 2) the shape within `room` (k, 2) that keeps most of a picture of that aspect.

    Rounding both sides down may leave a ratio far from the picture's; then one is cut further.
    """
    width, height = (np.maximum(room // multiple, 1)).T
    narrower = np.clip(np.rint(height * aspect), 1, width).astype(np.int64)
    lower = np.clip(np.rint(width / aspect), 1, height).astype(np.int64)
    candidates = np.stack(
        [np.stack(pair, axis=1) for pair in ((width, height), (narrower, height), (width, lower))]
    )
    # The first of equals is taken, and that is the largest.
    best = np.argmax(np.stack([_kept(aspect, shape) for shape in candidates]), axis=0)
    return multiple * candidates[best, np.arange(len(room))]


def _kept(aspect: NDArray[np.float64], shape: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of the area that is kept when a picture covers `shape` and the rest is cropped."""
    ratio = aspect * shape[:, 1] / shape[:, 0]
    return np.minimum(ratio, 1 / ratio)


def _number(
    shape: NDArray[np.int64], usable: NDArray[np.bool_], common: NDArray[np.int64]
) -> tuple[tuple[Bucket, ...], NDArray[np.int32]]:
    """The shapes in use, in their order, and each row's index among them."""
    codes, index = np.unique((shape[:, 0] << 32 | shape[:, 1])[usable], return_inverse=True)
    found = [Bucket(int(code) >> 32, int(code) & 0xFFFFFFFF) for code in codes]
    place = {Bucket(int(w), int(h)): k for k, (w, h) in enumerate(common)}
    order = sorted(
        range(len(found)),
        key=lambda k: (place.get(found[k], len(place)), -found[k].width * found[k].height, k),
    )
    new = np.empty(len(order), np.int32)
    new[order] = np.arange(len(order), dtype=np.int32)
    bucket_of = np.full(len(shape), -1, np.int32)
    bucket_of[usable] = new[index]
    return tuple(found[k] for k in order), bucket_of


def _pictures(count: int, one: str, several: str) -> str:
    return f"1 picture {one}" if count == 1 else f"{count:,} pictures {several}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Text columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
