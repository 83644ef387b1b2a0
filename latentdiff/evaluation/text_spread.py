"""How far apart a text tower puts what its prompts name: variances and singular values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class TextSpread:
    """Of embeddings of all pairs of subjects and settings.

    subject, setting, both: shares of the variance that the one alone, the other alone, and their
    interaction explain; together 1. singular_values: of the subjects' mean embeddings about their
    own mean, falling, the largest as 1. Along how many directions do subjects differ?
    """

    subject: float
    setting: float
    both: float
    singular_values: tuple[float, ...]


def text_spread(embeddings: NDArray[np.float64]) -> TextSpread:
    """embeddings: (subjects, settings, D), two or more of both. ValueError where all are equal."""
    centred = embeddings - embeddings.mean(axis=(0, 1))
    total = float((centred**2).sum(axis=2).mean())
    if total == 0.0:
        raise ValueError("all embeddings are equal")
    subjects, settings = centred.mean(axis=1), centred.mean(axis=0)
    subject, setting = ((means**2).sum(axis=1).mean() / total for means in (subjects, settings))
    values = np.linalg.svd(subjects, compute_uv=False)
    largest = float(values[0])
    return TextSpread(
        subject=float(subject),
        setting=float(setting),
        both=float(1.0 - subject - setting),
        singular_values=tuple(float(v) / largest if largest else 0.0 for v in values),
    )
