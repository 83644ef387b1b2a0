"""The denoiser: one callable, and what it predicts is a property of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from latentdiff.devices import Backend
from latentdiff.errors import UserError, unknown_name
from latentdiff.models.light.part import Part, as_part
from latentdiff.models.prepared.deep_cache import DeepCache
from latentdiff.models.prepared.fits import unet_fits
from latentdiff.models.prepared.graphed_unet import prepare_unet
from latentdiff.models.prepared.ready import ONLY_PLAIN, Ready
from latentdiff.models.prepared.unet import PreparedUnet

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


ReadyUnet = Ready[PreparedUnet]


def ready_unet(
    unet: UNet2DConditionModel | Part[UNet2DConditionModel], backend: Backend = "torch"
) -> ReadyUnet:
    """The U-Net with its prepared form, for any number of walks.

    backend: who computes it. UserError where OpenVINO is not installed or cannot.
    """
    part = as_part(unet)
    if backend == "openvino":
        from latentdiff.models.prepared.openvino_unet import OpenVinoUnet, check_openvino

        check_openvino(part.light)
        return Ready(part, unet_fits, OpenVinoUnet, wanted_for="the backend openvino")
    if backend != "torch":
        raise unknown_name("backend", backend, get_args(Backend))
    return Ready(part, unet_fits, prepare_unet)


class Denoiser:
    """A U-Net with what it predicts: `denoiser(x_t, t, context) -> prediction`.

    prediction_type is "epsilon", "v_prediction" or "sample", as the checkpoint's scheduler config
    says; it is never guessed from the weights. context_mask: (B, L) bool, false for what in the
    contexts is only filled up, as `conditioning.text.context_mask` makes it.
    """

    repeats_rows = True
    """It takes contexts of more rows than x_t, and repeats x_t for them itself."""

    def __init__(
        self,
        unet: UNet2DConditionModel | Part[UNet2DConditionModel] | ReadyUnet,
        prediction_type: str,
        context_mask: Tensor | None = None,
        *,
        deep_cache_interval: int = 1,
    ) -> None:
        """unet: ready made where it is asked in several walks with the same weights.
        deep_cache_interval: of so many calls, one computes the deep features that the others take
        over (`DeepCache`); approximate, and UserError where the prepared form does not serve."""
        self.ready = unet if isinstance(unet, Ready) else ready_unet(unet)
        self.ready.look()
        self.prediction_type = prediction_type
        self._cast: tuple[Tensor, Tensor] | None = None
        self._deep = DeepCache(deep_cache_interval) if deep_cache_interval > 1 else None
        self.hide(context_mask)

    def hide(self, context_mask: Tensor | None) -> None:
        """Take another mask, for contexts that change from step to step."""
        self.context_mask = None if context_mask is None else context_mask.to(self.device)

    def __call__(self, x_t: Tensor, t: Tensor | float, context: Tensor) -> Tensor:
        """Prediction (kB, C, h, w) for noisy latents x_t (B, C, h, w).

        t: timestep 0 … T-1, one for all or (B,); context: (kB, L, D), whose row j belongs to row
        j mod B of x_t. The U-Net's dtype and device rule inside; the result comes back in those of
        x_t.
        """
        assert context.shape[0] % x_t.shape[0] == 0, (x_t.shape, context.shape)
        told, shown = self._told(context), x_t.to(self.dtype)
        form = None if isinstance(t, Tensor) and t.ndim else self._form()
        mask = self.context_mask
        if mask is not None and len(mask) != len(context):
            mask = mask[-len(context) :]  # the prompts' half, asked without guidance
        if form is not None:
            prediction = form(shown, float(t), told, mask, deep=self._deep)
        elif self._deep is not None:
            raise UserError(f"a deep cache {ONLY_PLAIN}, or its timesteps or masks differ by row")
        else:
            times = t if isinstance(t, Tensor) else torch.full((), t, device=x_t.device)
            count = context.shape[0] // x_t.shape[0]
            shown = shown if count == 1 else torch.cat([shown] * count)
            times = times.repeat(count) if times.ndim else times
            prediction = predict(self.ready.part.own, shown, times, told, mask)
        return prediction.to(x_t.dtype)

    def _form(self) -> PreparedUnet | None:
        """The prepared U-Net where it can do what is asked."""
        pooled = self._unet.config.addition_embed_type is not None
        return None if pooled and self.context_mask is not None else self.ready.form()

    def _told(self, context: Tensor) -> Tensor:
        """The context in the U-Net's dtype; the same tensor for the same one."""
        if context.dtype == self.dtype:
            return context
        if self._cast is None or self._cast[0] is not context:
            self._cast = (context, context.to(self.dtype))
        return self._cast[1]

    @property
    def dtype(self) -> torch.dtype:
        """What the U-Net computes in."""
        found: torch.dtype = self._unet.dtype
        return found

    @property
    def device(self) -> torch.device:
        """Where the U-Net computes."""
        found: torch.device = self._unet.device
        return found

    @property
    def _unet(self) -> Any:
        """The U-Net in the form that it is in."""
        return self.ready.part.light


class WithChannels:
    """A denoiser that is shown more than the sample: the mask and the picture of an inpainting
    checkpoint (Rombach et al. 2022, section 4.5; channels as in Stable Diffusion's)."""

    def __init__(
        self, denoiser: Callable[[Tensor, Tensor | float, Tensor], Tensor], channels: Tensor
    ) -> None:
        """channels: (B, c, h, w), put behind x_t's; guidance may be inside `denoiser`."""
        self.denoiser = denoiser
        self.channels = channels

    @property
    def dtype(self) -> torch.dtype | None:
        """What the network computes in, if it says so."""
        return getattr(self.denoiser, "dtype", None)

    def __call__(self, x_t: Tensor, t: Tensor | float, context: Tensor) -> Tensor:
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
