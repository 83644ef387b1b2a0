"""The work of `bench train`: fine-tuning a model on a folder of captioned pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class TrainingWork:
    """What all entrants train, and how; a turn is `steps` updates of `batch_size` pictures.

    model: a folder in diffusers format. data: an imagefolder with captions ("text"). size: pixels
    of a side. folder: where caches and runs of the benchmark may lie. mixed_precision: "no" or the
    autocast of the forward pass, "bf16".
    """

    model: str
    data: str
    folder: str
    size: int
    batch_size: int = 16
    steps: int = 5
    learning_rate: float = 1e-5
    warmup_steps: int = 1
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    device: str = "cpu"
    mixed_precision: Literal["no", "bf16"] = "no"

    def to_json(self) -> dict[str, Any]:
        """Settings of a maker."""
        return asdict(self)
