"""Trains the photo classifier of `evaluation.classes`: minutes on two cores, no run folder.

It is a measuring instrument that is made on the spot from any labelled pictures, so it has a short
loop of its own; every draw is addressed, so the same pictures give the same classifier on the same
machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentdiff import seeding
from latentdiff.data.rendered.scene_pictures import row_of
from latentdiff.devices import multiplies_bfloat16
from latentdiff.errors import UserError
from latentdiff.evaluation.classes import PICTURE_SIZE, PhotoClassifier
from latentdiff.pixels import to_pixels
from latentdiff.training.optimizers.learning_rate import Decay, learning_rate_scale


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """How the classifier is trained; the time depends on `visits`, not on how many pictures."""

    visits: int = 160_000
    """Pictures seen in all, repeats included."""
    batch_size: int = 125
    learning_rate: float = 0.06
    """Peak rate of SGD with Nesterov momentum 0.9; it rises over a fifth of the steps, then falls
    to 0."""
    weight_decay: float = 2e-3
    label_smoothing: float = 0.1
    shift: int = 4
    """Each visit moves the picture by up to this many pixels; the border is mirrored."""
    seed: int = 0
    widths: tuple[int, int, int] = (64, 128, 192)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.batch_size < 2 or self.visits < self.batch_size:
            raise UserError(
                f"batch_size {self.batch_size} and visits {self.visits}: a classifier needs at "
                "least one batch of two pictures"
            )


Progress = Callable[[int, int, float], None]


def train_classifier(
    pictures: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    config: ClassifierConfig | None = None,
    *,
    progress: Progress | None = None,
) -> PhotoClassifier:
    """Train on pictures (N, 32, 32, 3) with class numbers (N,); in evaluation mode, float32.

    progress: called with (step, steps, loss). Pictures are flipped and shifted at each visit. On a
    processor that multiplies bfloat16, the networks compute in it.
    """
    config = config or ClassifierConfig()
    _check(pictures, labels, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.integers(2**31, config.seed, "classifier weights"))
        classifier = PhotoClassifier(classes, config.widths)
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        _groups(classifier, config.weight_decay), lr=1.0, momentum=0.9, nesterov=True
    )
    began = time.monotonic()
    steps = config.visits // config.batch_size
    loss_of = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    fast = multiplies_bfloat16("cpu")
    images, targets = torch.from_numpy(pictures), torch.from_numpy(labels)
    for step in range(steps):
        first = step * config.batch_size
        rows = torch.tensor(
            [row_of(p, len(images), config.seed) for p in range(first, first + config.batch_size)]
        )
        rate = _rate(step, steps) * config.learning_rate
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels = augmented(images[rows], config.shift, config.seed, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            logits = classifier(pixels)
        loss = loss_of(logits.float(), targets[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if progress is not None and (step + 1) % 20 == 0:
            progress(step + 1, steps, float(loss.detach()))
    classifier.facts = {
        "pictures": len(pictures),
        "visits": steps * config.batch_size,
        "seconds": round(time.monotonic() - began, 1),
        "dtype": "bfloat16" if fast else "float32",
    }
    return classifier.eval()


def _check(
    pictures: NDArray[np.uint8], labels: NDArray[np.int64], classes: tuple[str, ...]
) -> None:
    if pictures.shape[1:] != (PICTURE_SIZE, PICTURE_SIZE, 3) or len(pictures) != len(labels):
        raise ValueError(f"pictures {pictures.shape} and labels {labels.shape} do not fit")
    seen = np.bincount(labels, minlength=len(classes)) if len(labels) else np.zeros(0, np.int64)
    if len(classes) < 2 or len(seen) != len(classes) or not seen.all():
        raise UserError(
            f"{len(pictures)} pictures of {int((seen > 0).sum())} classes: a classifier needs two "
            "classes or more, with a picture each"
        )


def _groups(classifier: PhotoClassifier, weight_decay: float) -> list[dict[str, object]]:
    """Weights decay; biases and norms do not."""
    many = [p for p in classifier.parameters() if p.ndim > 1]
    few = [p for p in classifier.parameters() if p.ndim <= 1]
    return [{"params": many, "weight_decay": weight_decay}, {"params": few, "weight_decay": 0.0}]


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 5)
    decay = Decay(warm, steps) if steps > warm else None
    return learning_rate_scale(step, warm, decay, "linear")


def augmented(pictures: Tensor, shift: int, seed: int, step: int) -> Tensor:
    """Pictures (B, 32, 32, 3) uint8 -> pixels, each flipped at random and shifted by ≤ `shift`."""
    draw = seeding.generator(seed, "augment", step)
    count, size = len(pictures), pictures.shape[1]
    places = torch.from_numpy(draw.integers(-shift, shift + 1, (2, count)))
    flip = torch.from_numpy(draw.random(count) < 0.5)
    steps = torch.arange(size)
    rows, columns = (_mirrored(steps[None, :] + move[:, None], size) for move in places)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None]
    return to_pixels(pictures[batch, rows[:, :, None], columns[:, None, :]])


def _mirrored(index: Tensor, size: int) -> Tensor:
    """Indices outside 0 … size - 1 reflected at the border pixel."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)
