"""A tiny real task: a convolution learns to undo a fixed blur of noise addressed by position."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentdiff import seeding
from latentdiff.training.context import RunContext
from latentdiff.training.train_config import TrainConfig


class Regressor(nn.Module):
    """(B, 2, 6, 6) -> the same, with a frozen part, a buffer and dropout."""

    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.Identity() if plain else nn.BatchNorm2d(4)
        self.drop = nn.Identity() if plain else nn.Dropout(0.1)
        self.last = nn.Conv2d(4, 2, 3, padding=1)
        self.fixed = nn.Conv2d(2, 2, 1).requires_grad_(False)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden = self.drop(torch.relu(self.norm(self.first(batch["x"]))))
        prediction = self.fixed(self.last(hidden)) * self.gain
        error = (prediction.float() - batch["y"]).square().mean()
        return {"loss": error * batch["poison"].mean(), "error": error.detach()}


class RegressorTask:
    """Batches are a pure function of (seed, positions); `poisoned` positions make the loss NaN."""

    name = "regressor"

    def __init__(
        self, seed: int = 0, *, poisoned: frozenset[int] = frozenset(), plain: bool = False
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.module: nn.Module = Regressor(plain)
        self.seed, self.poisoned = seed, poisoned
        self.seen: list[tuple[int, ...]] = []

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        self.seen.append(tuple(positions))
        x = np.stack([seeding.standard_normal((2, 6, 6), self.seed, "x", p) for p in positions])
        poison = [float("nan") if p in self.poisoned else 1.0 for p in positions]
        y = np.roll(x, 1, axis=-1) * 0.5
        return {
            "x": torch.from_numpy(x),
            "y": torch.from_numpy(y),
            "poison": torch.tensor(poison),
            "positions": torch.tensor(list(positions)),
        }

    def open_data(self, context: RunContext) -> None:
        pass

    def prepare(self, device: torch.device) -> None:
        pass

    def validate(self, module: nn.Module, step: int) -> dict[str, float]:
        assert not module.training and not torch.is_grad_enabled()
        device = next(module.parameters()).device
        batch = {k: v.to(device) for k, v in RegressorTask(99).batch(range(8)).items()}
        return {"error": float(module(batch)["error"])}

    def sheet(self, module: nn.Module, step: int) -> Image.Image | None:
        return Image.new("RGB", (4, 4), (step % 256, 0, 0))

    def export(self, module: nn.Module, folder: Path) -> None:
        tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")

    def initialise(self, folder: Path) -> None:
        self.module.load_state_dict(load_file(folder / "model.safetensors"))


@dataclass(frozen=True, kw_only=True)
class RegressorConfig:
    """Settings of the regressor when it is launched as a script."""

    plain: bool = False
    """Without batch statistics and dropout, so that processes compute what one would."""
    train: TrainConfig = field(default_factory=TrainConfig)


if __name__ == "__main__":
    from latentdiff.training.run.entry import main_for

    def build(config: RegressorConfig, context: RunContext) -> RegressorTask:
        return RegressorTask(config.train.seed, plain=config.plain)

    sys.exit(main_for(build, RegressorConfig, name="regressor", prog="regressor"))
