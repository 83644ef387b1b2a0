"""CLIP R-precision: how often a picture's own prompt is the likest of R (AttnGAN, Xu et al. 2018).

The R − 1 other prompts are drawn at random among those that read differently. Their draw is not
simulated: if m of the M others are as like the picture or more, the chance that none of them is
among R − 1 drawn is C(M − m, R − 1)/C(M, R − 1), and that is the picture's score.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.paired import Estimate, clustered_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class RPrecision:
    """mean: of the pictures' scores, with its standard error clustered by prompt; chance: 1/R.

    scores: (N,) in [0, 1]; ranks: (N,) how many different prompts are liker than the own, 0 best.
    """

    mean: Estimate
    scores: NDArray[np.float64]
    ranks: NDArray[np.int64]
    candidates: int

    @property
    def chance(self) -> float:
        """What pictures that ignore their prompt score."""
        return 1.0 / self.candidates


def r_precision(
    images: NDArray[np.floating],
    texts: NDArray[np.floating],
    prompts: Sequence[str],
    *,
    candidates: int = 100,
) -> RPrecision:
    """Of embeddings of pictures (N, P) and of their prompts (N, P), row by row.

    candidates: R, the own prompt and R − 1 others. Raises ValueError where there are fewer than R
    different prompts.
    """
    if images.shape != texts.shape or images.ndim != 2 or len(images) != len(prompts):
        raise ValueError(
            f"embeddings (N, P) of one shape and N prompts expected, found {images.shape}, "
            f"{texts.shape} and {len(prompts)} prompts"
        )
    first = {prompt: n for n, prompt in reversed(list(enumerate(prompts)))}
    different = list(dict.fromkeys(prompts))
    if not 2 <= candidates <= len(different):
        raise ValueError(
            f"R-precision of {candidates} candidates needs 2 … {len(different)} different prompts"
        )
    own = {prompt: column for column, prompt in enumerate(different)}
    likeness = _unit(images) @ _unit(texts[[first[prompt] for prompt in different]]).T
    column = np.asarray([own[prompt] for prompt in prompts])
    mine = likeness[np.arange(len(prompts)), column][:, None]
    liker = (likeness > mine).sum(axis=1)
    as_like = (likeness >= mine).sum(axis=1) - 1  # a tie is no retrieval; less the own prompt
    others = len(different) - 1
    table = [_chance_of_none(m, others, candidates - 1) for m in range(others + 1)]
    scores = np.asarray(table)[as_like]
    return RPrecision(
        mean=clustered_mean(scores, list(prompts)),
        scores=scores,
        ranks=liker.astype(np.int64),
        candidates=candidates,
    )


def _chance_of_none(marked: int, total: int, drawn: int) -> float:
    """That `drawn` of `total` without repetition hold none of the marked."""
    return math.comb(total - marked, drawn) / math.comb(total, drawn)


def _unit(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    x = embeddings.astype(np.float64)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
