"""The fixed (picture, t, ε) pairs of validation: made once, measured at every validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latentdiff import seeding
from latentdiff.models.autoencoder import Autoencoder
from latentdiff.pixels import to_pixels
from latentdiff.training.feeds.caption_tokens import CaptionTokens
from latentdiff.training.feeds.feed import Entry
from latentdiff.training.paired_losses import Group, PairedLosses, spread_timesteps
from latentdiff.training.tasks.text_to_image.module import Batch, UNetModule

AT_ONCE = 32
"""Pairs in one forward pass, at most."""


class FixedPairs:
    """Pairs of two groups of pictures; each group has at least `pairs` of them, if it has any.

    A picture's latent is one fixed draw from its posterior, kept on the CPU; each pair has its own
    ε. Both depend on (seed, group, place) alone.
    """

    def __init__(
        self, entries: dict[Group, Sequence[Entry]], *, pairs: int, seed: int, timesteps: int
    ) -> None:
        self.entries, self.seed, self.timesteps = entries, seed, timesteps
        self._where: list[tuple[Group, int, int, int]] = []  # group, picture, its turn, t
        for group, pictures in entries.items():
            if pictures:
                per_picture = max(1, -(-pairs // len(pictures)))
                table = spread_timesteps(len(pictures), per_picture, timesteps)
                for k, row in enumerate(table):
                    self._where += [(group, k, turn, int(t)) for turn, t in enumerate(row)]
        self._latents: dict[tuple[Group, int], Tensor] = {}

    def __len__(self) -> int:
        return len(self._where)

    @torch.no_grad()
    def losses(self, module: UNetModule, tokens: CaptionTokens) -> PairedLosses:
        """The loss of every pair, weighted as in training."""
        self._encode(module)
        device = next(module.unet.parameters()).device
        losses = np.full(len(self._where), np.nan)
        for part in self._batches():
            batch = self._batch(part, module, tokens)
            found = module.error({k: v.to(device) for k, v in batch.items()})
            losses[part] = found.per_sample.double().cpu().numpy()
        return PairedLosses(
            ids=tuple(self.entries[group][k].id for group, k, _, _ in self._where),
            t=np.array([t for *_, t in self._where], np.int64),
            losses=losses,
            group=tuple(group for group, *_ in self._where),
            num_train_timesteps=self.timesteps,
        )

    def _batches(self) -> list[list[int]]:
        """Indices of pairs, by size of the latent, in pieces."""
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (group, k, _, _) in enumerate(self._where):
            by_shape[tuple(self._latents[group, k].shape)].append(index)
        return [
            rows[first : first + AT_ONCE]
            for rows in by_shape.values()
            for first in range(0, len(rows), AT_ONCE)
        ]

    def _batch(self, part: Sequence[int], module: UNetModule, tokens: CaptionTokens) -> Batch:
        where = [self._where[index] for index in part]
        x_0 = torch.stack([self._latents[group, k] for group, k, _, _ in where])
        eps = torch.from_numpy(
            np.stack(
                [
                    seeding.standard_normal(x_0.shape[1:], self.seed, "validation eps", g, k, turn)
                    for g, k, turn, _ in where
                ]
            )
        )
        made = module.noising(x_0, eps, torch.tensor([t for *_, t in where]))
        captions = [self.entries[group][k].caption for group, k, _, _ in where]
        return {**made, **tokens.inputs(captions)}

    def _encode(self, module: UNetModule) -> None:
        """Latents of all pictures, once."""
        autoencoder = Autoencoder(module.frozen.vae)
        for group, entries in self.entries.items():
            for k, entry in enumerate(entries):
                if (group, k) in self._latents:
                    continue
                pixels = to_pixels(torch.from_numpy(entry.image[None])).to(autoencoder.device)
                with torch.autocast(autoencoder.device.type, enabled=False):
                    moments = autoencoder.encode_moments(pixels).float().cpu()
                noise = seeding.standard_normal(
                    (1, autoencoder.latent_channels, *moments.shape[2:]),
                    self.seed,
                    "validation posterior",
                    group,
                    k,
                )
                self._latents[group, k] = autoencoder.sample(moments, torch.from_numpy(noise))[0]
