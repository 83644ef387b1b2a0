"""The denoiser: one callable, and what it predicts is a property of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


class Denoiser:
    """A U-Net with what it predicts: `denoiser(x_t, t, context) -> prediction`.

    prediction_type is "epsilon", "v_prediction" or "sample", as the checkpoint's scheduler config
    says; it is never guessed from the weights. context_mask: (B, L) bool, false for what in the
    contexts is only filled up, as `conditioning.text.context_mask` makes it.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        prediction_type: str,
        context_mask: Tensor | None = None,
    ) -> None:
        self.unet = unet
        self.prediction_type = prediction_type
        self.context_mask = None if context_mask is None else context_mask.to(unet.device)

    def __call__(self, x_t: Tensor, t: Tensor | int, context: Tensor) -> Tensor:
        """Prediction (B, C, h, w) for noisy latents x_t (B, C, h, w).

        t: timestep 0 … T-1, one for all or (B,); context: (B, L, D).
        The U-Net's dtype and device rule inside; the result comes back in those of x_t.
        """
        assert x_t.shape[0] == context.shape[0], (x_t.shape, context.shape)
        if not isinstance(t, Tensor):
            t = torch.tensor(t, device=x_t.device)
        prediction = self.unet(
            x_t.to(self.dtype),
            t,
            encoder_hidden_states=context.to(self.dtype),
            encoder_attention_mask=self.context_mask,
            return_dict=False,
        )[0]
        return prediction.to(x_t.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        return self.unet.device
