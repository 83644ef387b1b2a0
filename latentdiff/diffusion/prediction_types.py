"""What a model's U-Net may predict, by diffusers' names; without torch, for options."""

from __future__ import annotations

from typing import Literal

Prediction = Literal["epsilon", "v_prediction", "sample"]
