"""Attention over few keys, as a CPU that multiplies bfloat16 trains it fastest.

There a layer with torch's fused attention took 2.5 times as long as with plain products over 64
keys, forward and backward, and 1.8 times over 256 (AMX, two threads, 2026-11-26). Over 1,024 the
two are level and the fused one saves memory; in float32 it never loses by much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from latentdiff.devices import multiplies_bfloat16

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

MOST_KEYS = 256


class ShortAttention(AttnProcessor2_0):
    """`AttnProcessor2_0`, but softmax(Q Kᵀ / √d) V in plain products where keys are few."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = AttnProcessor()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        **keywords: Any,
    ) -> Tensor:
        """As diffusers calls it: (B, N, C), context (B, L, D) or None → (B, N, C)."""
        looked_at = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        few = looked_at.ndim == 3 and looked_at.shape[1] <= MOST_KEYS
        chosen = self.plain if few and _in_bfloat16(hidden_states) else super().__call__
        found: Tensor = chosen(attn, hidden_states, encoder_hidden_states, *args, **keywords)
        return found


def _in_bfloat16(x: Tensor) -> bool:
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    return torch.get_autocast_dtype("cpu") == torch.bfloat16


def attend_shortly(unet: UNet2DConditionModel) -> None:
    """Let a U-Net attend so while it trains, on a CPU for which it is the faster way."""
    plain = all(type(p) is AttnProcessor2_0 for p in unet.attn_processors.values())
    if plain and multiplies_bfloat16("cpu"):
        unet.set_attn_processor(ShortAttention())
