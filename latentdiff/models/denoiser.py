"""The denoiser: one callable, and what it predicts is a property of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
        self.hide(context_mask)

    def hide(self, context_mask: Tensor | None) -> None:
        """Take another mask, for contexts that change from step to step."""
        self.context_mask = None if context_mask is None else context_mask.to(self.unet.device)

    def __call__(self, x_t: Tensor, t: Tensor | int, context: Tensor) -> Tensor:
        """Prediction (B, C, h, w) for noisy latents x_t (B, C, h, w).

        t: timestep 0 … T-1, one for all or (B,); context: (B, L, D).
        The U-Net's dtype and device rule inside; the result comes back in those of x_t.
        """
        assert x_t.shape[0] == context.shape[0], (x_t.shape, context.shape)
        if not isinstance(t, Tensor):
            t = torch.tensor(t, device=x_t.device)
        prediction = predict(
            self.unet, x_t.to(self.dtype), t, context.to(self.dtype), self.context_mask
        )
        return prediction.to(x_t.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """What the U-Net computes in."""
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        """Where the U-Net computes."""
        return self.unet.device


class WithChannels:
    """A denoiser that is shown more than the sample: the mask and the picture of an inpainting
    checkpoint (Rombach et al. 2022, section 4.5; channels as in Stable Diffusion's)."""

    def __init__(
        self, denoiser: Callable[[Tensor, Tensor | int, Tensor], Tensor], channels: Tensor
    ) -> None:
        """channels: (B, c, h, w), put behind x_t's; guidance may be inside `denoiser`."""
        self.denoiser = denoiser
        self.channels = channels

    @property
    def dtype(self) -> torch.dtype | None:
        """What the network computes in, if it says so."""
        return getattr(self.denoiser, "dtype", None)

    def __call__(self, x_t: Tensor, t: Tensor | int, context: Tensor) -> Tensor:
        """Prediction (B, C, h, w) for noisy latents x_t (B, C, h, w)."""
        return self.denoiser(torch.cat([x_t, self.channels.to(x_t)], dim=1), t, context)


def predict(
    unet: Any, x_t: Tensor, t: Tensor, context: Tensor, context_mask: Tensor | None = None
) -> Tensor:
    """The U-Net's output (B, C, h, w) for contexts (B, L, D) of which a mask (B, L) may hide ends.

    Cross-attention obeys the mask. A U-Net that also pools the text into the timestep's embedding
    does not, so its samples are then computed group by group, each cut to its own length.
    """
    if context_mask is None or unet.config.addition_embed_type is None:
        found: Tensor = unet(
            x_t,
            t,
            encoder_hidden_states=context,
            encoder_attention_mask=context_mask,
            return_dict=False,
        )[0]
        return found
    lengths = context_mask.sum(dim=1)
    out = x_t.new_empty(x_t.shape[0], int(unet.config.out_channels), *x_t.shape[2:])
    for length in lengths.unique().tolist():
        rows = lengths == length
        some = unet(
            x_t[rows],
            t[rows] if t.ndim else t,
            encoder_hidden_states=context[rows, :length],
            return_dict=False,
        )[0]
        out = out.to(some.dtype).masked_scatter(rows.view(-1, 1, 1, 1), some)
    return out
