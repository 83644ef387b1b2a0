"""Does a picture show what it is meant to show? Ask a small classifier trained on real photographs.

The classifier sees pictures scaled down to 32 px, so it works alike for photographs and for
generated pictures of any size, and it is used for measuring alone. Its accuracy on real pictures
that it has not seen is the ceiling: perfect pictures would reach about that.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from latentdiff import files
from latentdiff.checkpoints.tensor_file import tensor_bytes
from latentdiff.errors import UserError
from latentdiff.evaluation.intervals import Proportion, wilson
from latentdiff.evaluation.paired import clustered_mean, mcnemar, newcombe
from latentdiff.evaluation.saved_weights import load_strictly
from latentdiff.pixels import to_pixels

PICTURE_SIZE = 32
WIDTHS = (64, 128, 192)
WEIGHTS = "classifier.safetensors"
CONFIG = "config.json"
_FORMAT = "latentdiff-classifier-1"


class _Convolution(nn.Sequential):
    """3×3 convolution, batch norm, ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        )


class _Residual(nn.Module):
    """x + two convolutions (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_Convolution(width, width), _Convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


class PhotoClassifier(nn.Module):
    """A residual network, 32 → 16 → 8 → 4 px; the linear head sees the maximum over places.

    classes: names in the order of the logits. facts: how it was trained, plain values.
    """

    def __init__(self, classes: Sequence[str], widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.widths = tuple(widths)
        self.facts: dict[str, Any] = {}
        first, second, third = self.widths
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            _Residual(first),
            _Convolution(first, second),
            nn.MaxPool2d(2),
            _Residual(second),
            _Convolution(second, third),
            nn.MaxPool2d(2),
            _Residual(third),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(third, len(self.classes))

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, 32, 32), [-1, 1] -> logits (B, classes)."""
        assert pixels.shape[1:] == (3, PICTURE_SIZE, PICTURE_SIZE), tuple(pixels.shape)
        logits: Tensor = self.head(self.features(pixels))
        return logits


def save(classifier: PhotoClassifier, folder: str | Path) -> None:
    """Write `classifier.safetensors` (float32) and `config.json` into `folder`."""
    root = Path(folder)
    state = {k: v.detach().cpu().contiguous() for k, v in classifier.state_dict().items()}
    files.write_bytes(root / WEIGHTS, tensor_bytes(state, {"format": "pt"}))
    config = {
        "format": _FORMAT,
        "picture_size": PICTURE_SIZE,
        "widths": list(classifier.widths),
        "classes": list(classifier.classes),
        "facts": classifier.facts,
    }
    files.write_json(root / CONFIG, config)


def is_saved(folder: str | Path) -> bool:
    """Whether `folder` holds a classifier (whole or not: `load` says)."""
    return (Path(folder) / CONFIG).is_file() or (Path(folder) / WEIGHTS).is_file()


def load(folder: str | Path) -> PhotoClassifier:
    """Read a classifier written by `save`, in evaluation mode; UserError when it is damaged."""
    root = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (root / name).is_file():
            raise UserError(f"no classifier in {root}: {name} is missing; train one with --real")
    try:
        config: dict[str, Any] = json.loads((root / CONFIG).read_text("utf-8"))
        if config["format"] != _FORMAT:
            raise ValueError(f"format {config['format']!r}")
        classifier = PhotoClassifier(config["classes"], config["widths"])
        classifier.facts = dict(config["facts"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{root / CONFIG} does not describe a classifier ({error!r})") from error
    load_strictly(classifier, root / WEIGHTS)
    return classifier.eval()


def to_small(picture: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Any picture as (32, 32, 3) uint8: its central square, Pillow's bicubic with antialiasing.

    A picture of 32 × 32 stays as it is.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    if image.size != (PICTURE_SIZE, PICTURE_SIZE):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # Cropped first: resampling a box would also see the pixels beside it.
        square = image.crop((left, top, left + side, top + side))
        image = square.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(image)


@torch.inference_mode()
def probabilities(
    classifier: PhotoClassifier, pictures: NDArray[np.uint8], batch_size: int = 250
) -> NDArray[np.float32]:
    """Of pictures (N, 32, 32, 3): (N, classes), rows sum to one; the mirrored picture counts too.

    Float32, whatever it was trained in: a verdict does not depend on the processor's number types.
    """
    classifier.eval()
    rows = [np.zeros((0, len(classifier.classes)), np.float32)]
    for first in range(0, len(pictures), batch_size):
        pixels = to_pixels(pictures[first:][:batch_size])
        logits = classifier(pixels).float() + classifier(pixels.flip(3)).float()
        rows.append((logits / 2).softmax(dim=1).numpy())
    return np.concatenate(rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassScores:
    """What the classifier says of N pictures that are meant to show `wanted`.

    wanted, said: class numbers (N,). probability: of the wanted class, (N,).
    """

    classes: tuple[str, ...]
    wanted: NDArray[np.int64]
    said: NDArray[np.int64]
    probability: NDArray[np.float32]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which pictures are recognised (N,)."""
        found: NDArray[np.bool_] = self.wanted == self.said
        return found

    @property
    def overall(self) -> Proportion:
        """The share of all pictures that are recognised."""
        return wilson(int(self.right.sum()), len(self.right))

    def of_class(self, name: str) -> Proportion:
        """The share of one class's pictures that are recognised."""
        mask = self.wanted == self.classes.index(name)
        return wilson(int(self.right[mask].sum()), int(mask.sum()))

    def confusion(self) -> list[list[int]]:
        """Counts [wanted][said]."""
        count = len(self.classes)
        flat = np.bincount(self.wanted * count + self.said, minlength=count * count)
        rows: list[list[int]] = flat.reshape(count, count).tolist()
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain values for the report."""
        return {
            "overall": self.overall.to_json(),
            "by_class": {name: self.of_class(name).to_json() for name in self.classes},
            "mean_probability": round(float(self.probability.mean()), 6) if len(self.said) else 0.0,
            "confusion": self.confusion(),
        }


def score(
    classifier: PhotoClassifier,
    pictures: Iterable[Image.Image | NDArray[np.uint8]],
    wanted: Sequence[str],
) -> ClassScores:
    """Judge pictures of any size, each meant to show `wanted`; the iterable may be lazy."""
    numbers = {name: k for k, name in enumerate(classifier.classes)}
    unknown = sorted({name for name in wanted if name not in numbers})
    if unknown:
        raise UserError(
            f"the classifier does not know the class {unknown[0]!r}; "
            f"it knows {', '.join(classifier.classes)}"
        )
    small = [to_small(picture) for picture in pictures]
    stack = np.stack(small) if small else np.zeros((0, PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    found = probabilities(classifier, stack)
    target = np.asarray([numbers[name] for name in wanted], np.int64)
    return ClassScores(
        classes=classifier.classes,
        wanted=target,
        said=found.argmax(axis=1).astype(np.int64),
        probability=found[np.arange(len(target)), target],
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much more often the first model's pictures are recognised than the second's.

    difference, low, high: of the two shares, with a 95 % interval. p_value: two-sided.
    method: "paired" (same prompts and seeds: exact McNemar test) or "unpaired" (Newcombe's
    interval and the two-proportion z test).
    """

    method: str
    difference: float
    low: float
    high: float
    p_value: float

    @property
    def significant(self) -> bool:
        """At 5 %, two-sided."""
        return self.p_value < 0.05

    def to_json(self) -> dict[str, Any]:
        """Plain values for the report."""
        return {**dataclasses.asdict(self), "significant": self.significant}


def compare(first: ClassScores, second: ClassScores, *, paired: bool) -> Comparison:
    """First minus second; `paired` when picture n of both had the same prompt and seed."""
    if not paired:
        difference, low, high, p_value = newcombe(first.overall, second.overall)
        return Comparison(
            method="unpaired", difference=difference, low=low, high=high, p_value=p_value
        )
    if not np.array_equal(first.wanted, second.wanted):
        raise ValueError("paired scores want different classes")
    change = first.right.astype(np.float64) - second.right.astype(np.float64)
    estimate = clustered_mean(change, [str(n) for n in range(len(change))])
    low, high = estimate.interval()
    return Comparison(
        method="paired",
        difference=estimate.mean,
        low=low,
        high=high,
        p_value=mcnemar(int((change > 0).sum()), int((change < 0).sum())),
    )


def share(value: Proportion) -> str:
    """For example "93.4 % (90.9 … 95.2)"."""
    return f"{100 * value.value:.1f} % ({100 * value.low:.1f} … {100 * value.high:.1f})"
