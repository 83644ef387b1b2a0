"""What a U-Net's cross-attention looks at: recorded on the way, without touching the network."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentdiff.errors import UserError

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


class AttentionRecorder:
    """Records cross-attention probabilities while it is entered.

    Its hooks compute the probabilities a second time beside the network, so what the network gives
    is what it gives without them, bit by bit. size: (h, w) of the latents.
    """

    def __init__(self, unet: UNet2DConditionModel, size: tuple[int, int]) -> None:
        """Raises UserError for a U-Net without cross-attention."""
        self.layers: list[Any] = [m for n, m in unet.named_modules() if n.endswith("attn2")]
        if not self.layers:
            raise UserError("this U-Net has no cross-attention: there is nothing to look at")
        self.size = size
        self._sum: Tensor | None = None
        self._count = 0
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for layer in self.layers:
            self._hooks.append(layer.register_forward_pre_hook(self._record, with_kwargs=True))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def take(self) -> Tensor:
        """(rows, L, h, w): how much each latent cell looked at each token since the last call,
        averaged over heads and layers; of a cell they sum to 1."""
        assert self._sum is not None, "the network has not run"
        found = self._sum / self._count
        self._sum, self._count = None, 0
        return found

    @torch.no_grad()
    def _record(self, layer: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        hidden = args[0] if args else keywords["hidden_states"]
        context = args[1] if len(args) > 1 else keywords.get("encoder_hidden_states")
        if context is None:
            return
        shares = probabilities(layer, hidden, context, keywords.get("attention_mask"))
        height, width = self._level(hidden.shape[1])
        maps = shares.transpose(1, 2).unflatten(2, (height, width))
        if (height, width) != self.size:
            maps = functional.interpolate(maps, self.size, mode="bilinear", align_corners=False)
        assert self._sum is None or self._sum.shape == maps.shape, (self._sum.shape, maps.shape)
        self._sum = maps if self._sum is None else self._sum + maps
        self._count += 1

    def _level(self, cells: int) -> tuple[int, int]:
        """(height, width) of a level of that many cells: each halves the one above, rounding up."""
        height, width = self.size
        while height * width > cells:
            height, width = -(-height // 2), -(-width // 2)
        assert height * width == cells, f"{cells} cells are no level of {self.size}"
        return height, width


def probabilities(layer: Any, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    """(B, N, L) float32: softmax(Q Kᵀ / √d) of one of diffusers' attention layers, averaged over
    heads, for N cells (B, N, C) and a context (B, L, D); mask: what is added, (B, 1, L)."""
    heads = layer.heads
    query = layer.to_q(hidden).unflatten(2, (heads, -1)).transpose(1, 2)
    key = layer.to_k(context).unflatten(2, (heads, -1)).transpose(1, 2)
    scores = (query @ key.transpose(2, 3)).float() * layer.scale
    if mask is not None:
        scores = scores + mask[:, None].float()
    return scores.softmax(dim=-1).mean(dim=1)
