"""What latents to expect of a scene: the mean over its world, in few and even directions.

A denoiser at the last timestep sees next to nothing of x_0, so the best it can answer is
E[x_0 | caption]; all that a caption decides is in there. The world's pictures are nearly sums of
parts, so the expectation is fitted as one: a mean picture for each setting, for each subject alone,
and for each subject in the left and in the right place of two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latentdiff.scenes.catalog import SETTINGS, base_subjects
from latentdiff.scenes.records import SceneRecord

Float = NDArray[np.float32]
RIDGE = 1.0
"""Pictures of the overall mean that are added to every part's own."""
_LEAST = 1e-3
"""Directions with less than this share of the largest deviation are not made larger than it."""


class ExpectedLatents:
    """Codes of scenes: their expected latents along the leading directions of these.

    A code's k-th value is the projection on the k-th principal direction of all expectations,
    divided by s_k^power, where s_k is its standard deviation: power 0 keeps distances as they are
    in latents, where a few directions (the ground's colour, the subject's) hold almost all; with 1
    all directions count the same. Codes have the mean square `mean_square` over the scenes given.
    """

    def __init__(
        self,
        records: Sequence[SceneRecord],
        latents: Float,
        *,
        directions: int,
        power: float,
        mean_square: float = 1.0,
    ) -> None:
        """latents: (N, ...) of the scenes. ValueError when they have fewer directions."""
        flat = latents.reshape(len(latents), -1)
        self._subject = {key: k for k, key in enumerate(base_subjects())}
        self._setting = {key: k for k, key in enumerate(SETTINGS)}
        self.parts = len(self._setting) + 3 * len(self._subject)
        design = self._design(records)
        flat = flat - flat.mean(axis=0)
        count = design.T @ design
        ridge = RIDGE * np.eye(self.parts, dtype=np.float32)
        means = np.linalg.solve(count + ridge, design.T @ flat)
        # Principal directions of design @ means, by way of the small matrix of its parts.
        root = np.linalg.cholesky((count / len(design)).astype(np.float64) + 1e-6 * ridge)
        _, spectrum, axes = np.linalg.svd(root.T @ means, full_matrices=False)
        if not 1 <= directions <= len(spectrum):
            raise ValueError(f"directions is {directions}, expected 1 … {len(spectrum)}")
        self._of_parts = (means @ axes[:directions].T).astype(np.float32)
        found = design @ self._of_parts
        std = found.std(axis=0)
        self._of_parts /= np.maximum(std, _LEAST * std.max()) ** power
        self._of_parts *= np.sqrt(mean_square / np.mean((design @ self._of_parts) ** 2))

    def __call__(self, records: Sequence[SceneRecord]) -> Float:
        """Codes (n, directions); of any scene, seen or not, whose subjects the world trains on."""
        found: Float = self._design(records) @ self._of_parts
        return found

    def _design(self, records: Sequence[SceneRecord]) -> Float:
        """(n, parts): a one for the setting, and one for each subject in its place."""
        subjects, settings = len(self._subject), len(self._setting)
        rows = np.zeros((len(records), self.parts), np.float32)
        for row, record in zip(rows, records, strict=True):
            row[self._setting[record.setting]] = 1
            placed = sorted(record.placements, key=lambda placement: placement.center[0])
            for k, placement in enumerate(placed):
                slot = 0 if len(placed) == 1 else 1 + k
                row[settings + slot * subjects + self._subject[placement.subject]] = 1
        return rows
